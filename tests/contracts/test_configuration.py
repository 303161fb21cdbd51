"""Every name composes, every key is a parameter, every value for a method is read."""

import inspect
import re

import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

from backdoor_lab.config import CONF, catalogue, plain_config
from backdoor_lab.config.checks import values_read
from backdoor_lab.errors import ConfigError
from backdoor_lab.run.parts import Parts
from tests.conftest import names

GROUPS = {"aux_data": "aux"} | {
    folder.name: folder.name
    for folder in CONF.iterdir()
    if folder.is_dir() and folder.name not in ("hydra", "aux_data")
}
CHOICES = [(group, name) for folder, group in GROUPS.items() for name in names(folder)]


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_name_composes(config, group, name):
    cfg = config(f"{group}={name}", "logger=none" if group != "logger" else f"logger={name}")
    assert OmegaConf.to_container(cfg, resolve=True)["seed"] == 0


PAIRS = [
    *((name, "cifar10") for name in names("attack")),
    *(("wanet", name) for name in names("dataset")),
]


@pytest.mark.parametrize(("attack", "dataset"), PAIRS)
def test_attacks_compose_with_data_sets(config, attack, dataset):
    cfg = config(f"attack={attack}", f"dataset={dataset}")
    assert f".attacks.{attack}." in OmegaConf.to_container(cfg.attack, resolve=True)["_target_"]


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_keys_are_the_parameters_of_the_target(config, group, name):
    if group in ("protocol", "experiment"):
        pytest.skip("holds values for others, builds nothing")
    node = plain_config(config(f"{group}={name}"), group)
    target = get_class(node.pop("_target_"))
    parameters = inspect.signature(target).parameters
    accepted = set(parameters)
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        accepted |= {key for base in target.__mro__ for key in inspect.signature(base).parameters}
    assert set(node) <= accepted


def test_every_value_for_a_method_is_read():
    for file in CONF.rglob("*.yaml"):
        held = OmegaConf.to_container(OmegaConf.load(file)).get("values_for") or {}
        given = {f"{method}.{key}" for method, values in held.items() for key in values}
        assert given <= values_read(), f"{file.name}: nothing reads {given - values_read()}"


def test_help_lists_every_name():
    text = catalogue()
    for folder, group in GROUPS.items():
        for name in names(folder):
            assert re.search(rf"{group}={name} +\S+", text)


BAD = {
    "attack.poison_rate=0": "attack.poison_rate",
    "attack.poison_rate=1.5": "attack.poison_rate",
    "attack.target=10": "attack.target",
    "attack.target=-1": "attack.target",
    "attack.size=33": "attack.size",
    "attack.pattern=star": "attack.pattern",
    "seed=-1": "seed",
    "recipe.epochs=0": "recipe.epochs",
    "recipe.lr=0": "recipe.lr",
    "aux=none": "aux=none",
    "aux.ratio=2": "aux.ratio",
    "aux.size=0": "aux.size",
    "aux.labelled=false": "aux.labelled",
    "model.architecture=resnet19": "model.architecture",
    "trainer.accelerator=abacus": "trainer.accelerator",
    "trainer.devices=[0,1]": "trainer.devices",
    "+trainer.callbacks.x._target_=torch.nn.ReLU": "trainer.callbacks",
    "dataset=imagefolder": "dataset.root",
    "+sed=1": "sed is no key",
    "+values_for.badnets.rsize=1": "values_for.badnets.rsize",
    "+values_for.typo.x=1": "values_for.typo.x",
    "task=export": "export=null",
}


@pytest.mark.parametrize("override", BAD)
def test_bad_values_stop_before_anything_starts(config, override):
    with pytest.raises(ConfigError) as refusal:
        Parts.of(config(override))
    assert BAD[override] in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        (["export=poisoned", "task=purify"], "export"),
        (["export=poisoned", "attack=none"], "no triggered images"),
        (["defense=clp", "defense@then=ft", "aux=none"], "aux=none"),
    ],
)
def test_choices_that_make_no_sense_together_are_refused(config, chosen, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Parts.of(config(*chosen))


def test_an_export_brings_its_task(config):
    assert config("export=poisoned").task["_target_"].endswith("Export")


def test_two_defenses_are_a_chain(config):
    parts = Parts.of(config("defense=clp", "defense@then=ft", "aux=seen"))
    assert [type(link).__name__ for link in parts.defense.links] == ["CLP", "FT"]


def test_facts_are_no_parameters(config):
    cfg = config("attack=adaptive", "attack@attack.inner=wanet")
    assert cfg.attack.inner.facts.trained_by == "attacker"
    assert "facts" not in plain_config(cfg, "attack")["inner"]


def test_unknown_keys_are_refused(config):
    with pytest.raises(Exception, match="posion_rate"):
        config("attack.posion_rate=0.1")


def test_protocol_wins_over_dataset_and_command_line_over_both(config):
    assert config("attack=sig").attack.delta == 80
    assert config("attack=sig", "protocol=gic").attack.delta == 40
    assert config("attack=sig", "protocol=gic", "attack.delta=7").attack.delta == 7
