"""What a protocol makes of data set and attack, against the papers' numbers; who wins over whom."""

import inspect

import pytest
import torch
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
)

from backdoor_lab.config import plain_config
from tests.conftest import names

HUNDREDS = [100, 200, 300, 400]
BB = {
    "recipe.lr": 0.01,
    "recipe.batch_size": 128,
    "dataset.reserved": 0,
    "recipe.optimizer.momentum": 0.9,
}
PREACT = {"model.architecture": "preact_resnet18", "model.options.width": 64}
RESNET = {"model.architecture": "resnet18", "model.small_stem": True}
WHOLE = {"recipe.drop_last": False}
DROPPED = {"recipe.drop_last": True}
BCU = {"recipe.lr": 0.1, "recipe.epochs": 200, "dataset.reserved_from": "test"}
BCU_WARP = BCU | {"recipe.lr": 0.01}
TURNS = {"attack.rotation_probability": 0.25}
LONG = {"recipe.epochs": 250, "recipe.drop_last": False}
LIRA = ("steps", [50, 100, 150, 200])
TINY = ("gic", "tiny_imagenet")
CC = BB | RESNET | {"recipe.epochs": 100}


def of_attack(**values):
    return {f"attack.{key}": value for key, value in values.items()}


def all_images(**values):
    return of_attack(poison_rate=0.1, poison_rate_base="train_set", **values)


def class_images(**values):
    return of_attack(poison_rate=0.8, poison_rate_base="target_class", **values)


# protocol, data set, attack, the schedule that is built, values by key
TABLE = [
    ("bb", "cifar10", "badnets", ("cosine", 100),
     BB | PREACT | DROPPED | {"recipe.epochs": 100, "recipe.optimizer.weight_decay": 5e-4}
     | all_images(target=0, pattern="square", resize="bilinear")),
    ("bb", "cifar10", "blended", ("cosine", 100), BB | DROPPED | all_images(alpha=0.2)),
    ("bb", "cifar10", "sig", ("cosine", 100), BB | DROPPED | all_images(delta=40, frequency=6)),
    ("bb", "cifar10", "lc", ("cosine", 100),
     BB | DROPPED | all_images(eps=16, step=1.5, steps=100, mirror=True, corners="four")),
    ("bb", "cifar10", "wanet", ("steps", HUNDREDS),
     BB | WHOLE | {"recipe.epochs": 100}
     | of_attack(poison_rate=0.1, cross_ratio=2, s=0.5, k=4, crop_padding=5, rotation=10)),
    ("bb", "cifar10", "lira", ("steps", [50, 100, 150, 200]),
     BB | WHOLE | {"recipe.epochs": 250}
     | of_attack(stage1_epochs=50, eps=0.01, alpha=0.5, network="autoencoder")),
    ("bb", "gtsrb", "badnets", ("cosine", 100), BB | PREACT | DROPPED | {"recipe.epochs": 50}),
    ("bb", "gtsrb", "bpp", ("steps", HUNDREDS),
     BB | WHOLE | {"recipe.epochs": 50} | of_attack(poison_rate=0.1, negative_rate=0.1, levels=8)),
    ("bb", "gtsrb", "lira", ("steps", [50, 100, 150, 200]),
     BB | WHOLE | {"recipe.epochs": 125} | of_attack(stage1_epochs=25)),
    ("bb", "gtsrb", "adaptive", ("steps", HUNDREDS), BB | WHOLE | {"recipe.epochs": 50}),
    ("bb", "tiny_imagenet", "ssba", ("plateau", 10),
     BB | PREACT | DROPPED | {"recipe.epochs": 200} | all_images(bits=1, residual=False)),
    ("bb", "tiny_imagenet", "input_aware", ("steps", HUNDREDS),
     BB | WHOLE | {"recipe.epochs": 200}
     | of_attack(mask_epochs=25, count_mask_epochs=True, double_tanh=True)),
    ("bb", "tiny_imagenet", "lira", ("steps", [50, 100, 150, 200]),
     BB | WHOLE | {"recipe.epochs": 500} | of_attack(stage1_epochs=100)),
    ("bb", "digits", "trojan", ("cosine", 100),
     BB | DROPPED | {"recipe.epochs": 100, "model.options.width": 16}
     | all_images(apply="wrap", epsilon=0.3, iterations=1000, neurons=2, value=100, step=0.1)),
    ("bb", "digits", "ssba", ("cosine", 100),
     all_images(residual=False, epochs=20, lr=1e-4, batch_size=64, hold=1000, ramp=3000,
                weight=10, width=32)),
    ("bb", "digits", "lc", ("cosine", 100), all_images(eps=16, step=1.5, steps=100)),
    ("gic", "cifar10", "sig", ("cosine", 100),
     BB | PREACT | DROPPED | {"recipe.epochs": 100, "dataset.reserved": 0.05}
     | all_images(delta=40)),
    ("gic", "gtsrb", "ssba", ("cosine", 100),
     BB | {"recipe.epochs": 50, "dataset.reserved": 0.05}),
    ("gic", "tiny_imagenet", "wanet", ("steps", HUNDREDS),
     BB | WHOLE | {"recipe.epochs": 200, "dataset.reserved": 0.05}),
    ("gic", "digits", "badnets", ("cosine", 100),
     {"dataset.reserved": 0.05, "recipe.lr": 0.01, "attack.resize": "bilinear"}),
    ("unibp", "cifar10", "wanet", ("cosine", 100), BB | PREACT | WHOLE
     | {"recipe.epochs": 100, "attack.rotation_probability": 0.5}),
    ("unibp", "gtsrb", "badnets", ("cosine", 100), BB | DROPPED | {"recipe.epochs": 100}),
    ("unibp", "gtsrb", "lc", ("cosine", 100),
     of_attack(poison_rate=0.1, poison_rate_base="target_class", eps=16)),
    ("unibp", "digits", "lc", ("cosine", 100), all_images(eps=16)),
    ("bcu", "cifar10", "badnets", ("steps", [100, 150]),
     BCU | RESNET | WHOLE | all_images(pattern="checkerboard")),
    ("bcu", "cifar10", "blended", ("steps", [100, 150]), BCU | DROPPED | all_images(alpha=0.2)),
    ("bcu", "cifar10", "sig", ("steps", [100, 150]), BCU | DROPPED | class_images(delta=20)),
    ("bcu", "gtsrb", "sig", ("steps", [100, 150]), BCU | DROPPED | class_images(delta=60)),
    ("bcu", "tiny_imagenet", "sig", ("steps", [100, 150]), class_images(delta=40)),
    ("bcu", "cifar10", "lc", ("steps", [100, 150]),
     BCU | DROPPED | class_images(eps=16, step=1.5, steps=100, robust_eps=16, mirror=False)),
    ("bcu", "cifar10", "wanet", ("steps", HUNDREDS), BCU_WARP | RESNET | WHOLE | TURNS),
    ("bcu", "gtsrb", "input_aware", ("steps", HUNDREDS),
     BCU_WARP | WHOLE | {"recipe.epochs": 150}),
    ("bcu", "digits", "adaptive", ("steps", HUNDREDS), BCU_WARP | RESNET | WHOLE),
    ("cc", "cifar10", "badnets", ("cosine", 100), CC | all_images(pattern="square")),
    ("cc", "gtsrb", "blended", ("cosine", 100), CC | all_images(alpha=0.1)),
    ("cc", "cifar10", "trojan", ("cosine", 100), CC | all_images(target=0)),
    ("cc", "tiny_imagenet", "lc", ("cosine", 100), CC | all_images()),
    ("cc", "digits", "wanet", ("steps", HUNDREDS), CC | WHOLE | TURNS),
    ("cc", "cifar10", "input_aware", ("steps", HUNDREDS),
     CC | WHOLE | of_attack(double_tanh=False)),
    ("cc", "cifar10", "lira", LIRA, CC | LONG | of_attack(stage1_epochs=50)),
    ("bcu", "cifar10", "lira", LIRA, BCU_WARP | LONG | of_attack(stage1_epochs=50)),
    ("bcu", "cifar10", "bpp", ("steps", HUNDREDS), BCU_WARP | WHOLE),
    ("unibp", "cifar10", "lira", LIRA, BB | LONG | of_attack(stage1_epochs=50)),
    ("unibp", "cifar10", "input_aware", ("cosine", 100), of_attack(double_tanh=True)),
    ("unibp", "cifar10", "lc", ("cosine", 100), all_images(eps=16)),
    ("unibp", "cifar10", "sbl", ("cosine", 100),
     {"dataset.reserved": 0.05} | of_attack(clean_share=0.1053, first_epochs=100)),
    *((protocol, dataset, attack, ("plateau", 10) if (protocol, dataset) == TINY else
       ("cosine", 100), of_attack(poison_rate=0.1, poison_rate_base="target_class"))
      for protocol in ("gic", "unibp") for attack in ("sig", "lc")
      for dataset in ("cifar100", "gtsrb", "tiny_imagenet")),
]  # fmt: skip


def schedule(cfg):
    recipe = instantiate(cfg.recipe)
    weight = torch.nn.Parameter(torch.zeros(1))
    built = recipe.optimizers([weight], steps=1)["lr_scheduler"]["scheduler"]
    match built:
        case CosineAnnealingLR():
            return "cosine", built.T_max
        case MultiStepLR():
            return "steps", sorted(built.milestones)
        case ReduceLROnPlateau():
            return "plateau", built.patience
        case OneCycleLR():
            return "cycle", built.total_steps


def around(attack):
    inner = ["attack@attack.inner=wanet"] if attack == "adaptive" else []
    return [f"attack={attack}", *inner]


@pytest.mark.parametrize(
    ("protocol", "dataset", "attack", "rates", "values"),
    TABLE,
    ids=["-".join(row[:3]) for row in TABLE],
)
def test_values_are_those_of_the_papers(config, protocol, dataset, attack, rates, values):
    cfg = config(f"protocol={protocol}", f"dataset={dataset}", *around(attack))
    assert {key: OmegaConf.select(cfg, key) for key in values} == values
    assert schedule(cfg) == rates


def test_digits_keep_their_own_recipe_without_a_protocol(config):
    cfg = config("dataset=digits", "protocol=none")
    assert schedule(cfg) == ("cycle", 20)
    assert (cfg.recipe.lr, cfg.recipe.epochs, cfg.dataset.reserved) == (0.1, 20, None)


def test_the_command_line_wins_over_the_protocol(config):
    values = ["recipe.lr=0.05", "recipe.epochs=3", "dataset.reserved=0.2"]
    cfg = config("protocol=bb", "dataset=digits", *values)
    assert (cfg.recipe.lr, cfg.recipe.epochs, cfg.dataset.reserved) == (0.05, 3, 0.2)
    assert schedule(cfg) == ("cosine", 100)
    cfg = config("protocol=bcu", "dataset=cifar10", "model=preact_resnet18_narrow", "recipe=quick")
    assert (cfg.model.architecture, cfg.model.options.width) == ("preact_resnet18", 16)
    assert schedule(cfg)[0] == "cycle"
    assert cfg.recipe.drop_last is False
    cfg = config("protocol=bb", "dataset=gtsrb", "attack=wanet", "recipe.schedule.milestones=[7]")
    assert schedule(cfg) == ("steps", [7])
    cfg.recipe.schedule.milestones = None
    assert schedule(cfg) == ("cosine", 100)


def attack_of(*path):
    node = None
    for name in reversed(path):
        inner = {} if node is None else {"inner": node}
        node = {"_target_": f"backdoor_lab.attacks.{name}.Any", **inner}
    return node


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (["wanet"], [1, 2]),
        (["lira"], 5),
        (["badnets"], [3]),
        (["adaptive", "wanet"], [1, 2]),
        (["adaptive", "badnets"], [3]),
        (["sbl", "adaptive", "wanet"], [1, 2]),
        (["outer", "wanet"], "the outer one"),
    ],
)
def test_for_attack_takes_the_attack_then_the_inner_one_then_the_default(path, expected):
    values = "{wanet:[1,2],lira:5,outer:the outer one}"
    cfg = OmegaConf.create({"attack": attack_of(*path), "x": f"${{for_attack:{values},[3]}}"})
    plain = OmegaConf.to_container(cfg, resolve=True)["x"]
    assert plain == expected
    assert type(plain) is type(expected)


@pytest.mark.parametrize("name", ["digits", "gtsrb"])
def test_for_dataset_within_for_attack_decides_by_both(name):
    text = "${for_attack:{lira:${for_dataset:{gtsrb:125},250}},${for_dataset:{gtsrb:50},100}}"
    made = {}
    for attack in ("lira", "sig"):
        node = {"dataset": {"name": name}, "attack": attack_of(attack), "x": text}
        made[attack] = OmegaConf.create(node).x
    assert made == ({"lira": 125, "sig": 50} if name == "gtsrb" else {"lira": 250, "sig": 100})


@pytest.mark.parametrize(
    ("held", "expected"),
    [({}, [100, 150]), ({"steps": None}, [100, 150]), ({"steps": [7]}, [7]), ({"steps": []}, []),
     ({"steps": 0}, 0), ({"steps": False}, False)],
)  # fmt: skip
def test_value_for_takes_what_is_held_and_lists_stay_lists(held, expected):
    text = "${value_for:recipe.steps,[100,150]}"
    cfg = OmegaConf.create({"values_for": {"recipe": held}, "x": text})
    plain = OmegaConf.to_container(cfg, resolve=True)["x"]
    assert plain == expected
    assert type(plain) is type(expected)


@pytest.mark.parametrize("attack", names("attack"))
def test_keys_of_an_attack_are_all_its_parameters_with_their_defaults(config, attack):
    cfg = config(f"attack={attack}", "dataset=cifar10", "protocol=none")
    node = plain_config(cfg, "attack")
    parameters = inspect.signature(get_class(node.pop("_target_"))).parameters
    defaults = {
        key: parameter.default
        for key, parameter in parameters.items()
        if parameter.default is not parameter.empty
    }
    assert set(node) == set(parameters)
    assert {key: node[key] for key in defaults} == defaults
