"""Every name composes, every key is a parameter, every value for a method is read."""

import inspect
import re
from copy import deepcopy

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.conf import HydraConf
from hydra.utils import get_class
from omegaconf import OmegaConf

from backdoor_lab.config import CONF, catalogue, plain_config
from backdoor_lab.config.checks import values_read
from backdoor_lab.config.choices import folder_of
from backdoor_lab.config.typos import refuse_typos
from backdoor_lab.config.vain import without_effect, without_grid
from backdoor_lab.errors import ConfigError
from backdoor_lab.run.parts import Parts
from tests.conftest import names

GROUPS = {"aux_data": "aux"} | {
    folder.name: folder.name
    for folder in CONF.iterdir()
    if folder.is_dir() and folder.name not in ("hydra", "aux_data")
}
NAMES = {group: names(folder) for folder, group in GROUPS.items()}
ROWS = [  # each name of each group stands in one of them
    {group: found[number % len(found)] for group, found in NAMES.items()}
    for number in range(max(map(len, NAMES.values())))
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["attack"])
def test_every_name_composes_and_every_key_is_a_parameter(config, row):
    cfg = config(*(f"{group}={name}" for group, name in row.items()))
    assert OmegaConf.to_container(cfg, resolve=True)["seed"] == 0
    assert f".attacks.{row['attack']}." in cfg.attack._target_
    for group in row.keys() - {"protocol", "experiment", "size"}:  # hold values, and build nothing
        node = plain_config(cfg, group)
        target = get_class(node.pop("_target_"))
        assert set(node) <= accepted(target), group


CHOOSERS = [
    f"{GROUPS[file.parent.name]}={file.stem}"
    for file in sorted(CONF.glob("*/[!_]*.yaml"))
    if "override /" in file.read_text()
]


@pytest.mark.parametrize("choice", CHOOSERS)
def test_what_chooses_for_other_groups_composes_alone(config, choice):
    assert OmegaConf.to_container(config(choice), resolve=True)["seed"] == 0


def accepted(target):
    """Names of the parameters, with those of the parents that `**options` are handed on to."""
    names = set()
    for kind in getattr(target, "__mro__", [target]):
        parameters = inspect.signature(kind).parameters
        names |= set(parameters)
        if all(one.kind is not inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
            break
    return names


def test_every_value_for_a_method_is_read():
    for file in CONF.rglob("*.yaml"):
        held = OmegaConf.to_container(OmegaConf.load(file)).get("values_for") or {}
        given = {f"{method}.{key}" for method, values in held.items() for key in values}
        assert given <= values_read(), f"{file.name}: nothing reads {given - values_read()}"


def test_help_lists_every_name():
    text = catalogue()
    for group, found in NAMES.items():
        for name in found:
            assert re.search(rf"{group}={name} +\S+", text)


BAD = {
    "attack.poison_rate=0": "attack.poison_rate",
    "attack.poison_rate=1.5": "attack.poison_rate",
    "attack.target=10": "attack.target",
    "attack.target=-1": "attack.target",
    "attack.size=33": "attack.size",
    "attack.pattern=star": "attack.pattern",
    "seed=-1": "seed",
    "defender_seed=-1": "defender_seed",
    "dataset.image_size=100000000": "dataset.image_size",
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
    "task.facts=null": "task.facts.groups=null",
    "paths.outputs=~/out": "paths.outputs=~/out begins with ~",
    "dataset.root=~ann/images": "dataset.root=~ann/images begins with ~",
}


@pytest.fixture(scope="module")
def usual():
    """The config without overrides: composed once, copied and changed."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config")


@pytest.mark.parametrize("override", BAD)
def test_bad_values_stop_before_anything_starts(config, usual, override):
    key, _, value = override.removeprefix("+").partition("=")
    if key in NAMES:
        cfg = config(override)
    else:
        cfg = deepcopy(usual)
        OmegaConf.update(cfg, key, yaml.safe_load(value), force_add=True)
    with pytest.raises(ConfigError) as refusal:
        Parts.of(cfg)
    assert BAD[override] in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


TOGETHER = {
    ("export=poisoned", "task=purify"): "export",
    ("export=poisoned", "attack=none"): "no triggered images",
    ("defense=clp", "defense@then=ft", "aux=none"): "aux=none",
}


@pytest.mark.parametrize("chosen", TOGETHER, ids=" ".join)
def test_choices_that_make_no_sense_together_are_refused(config, chosen):
    with pytest.raises(ConfigError, match=TOGETHER[chosen]):
        Parts.of(config(*chosen))


def test_an_export_brings_its_task_and_two_defenses_are_a_chain(config):
    assert config("export=poisoned").task["_target_"].endswith("Export")
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


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["task=victim", "defense=ft"], ["defense=ft has no effect: this task does without"]),
        (["task=victim", "aux.size=9"], ["aux.size=9 has no effect"]),
        (["aux.ratio=0.1", "aux.size=9"], ["aux.ratio=0.1 has no effect: aux.size is given"]),
        (["aux.ratio=0.1", "aux.per_class=2"], ["aux.ratio=0.1 has no effect: aux.per_class is"]),
        (["aux.ratio=0.1", "defense=ft", "seed=1"], []),
        (["task=victim", "attack=wanet"], []),
        (["task=victim", "evaluation.relearn=5"], ["this task does without evaluation"]),
        (["task=victim", "views=true"], ["views=true has no effect: this task leaves nothing"]),
        (["views=true", "keep_model=true", "evaluation.relearn=5"], []),
        (["table.rows=[aux]"], ["task=table alone"]),
    ],
)
def test_what_is_typed_in_vain_is_said(config, typed, said):
    found = list(without_effect(config(*typed), typed))
    assert len(found) == len(said)
    assert all(text in sentence for text, sentence in zip(said, found, strict=True))


TYPOS = {
    "attack=wannet": "attack=wannet is no attack; allowed: .* wanet",
    "attack@attack.inner=wannet": "attack.inner=wannet is no attack; allowed: .* wanet",
    "attack.poison_rat=0.1": "attack.poison_rat is a key of no attack; allowed: poison_rate,",
    "aux.lable=false": "aux.lable is a key of no aux; allowed: .*labelled",
    "attack=wanet,badnets": "attack=wanet,badnets are several; allowed: .* -m attack=wanet,badnets",
    "seed=0,1": "seed=0,1 are several",
}


@pytest.mark.parametrize("typed", TYPOS)
def test_a_typo_is_one_sentence_with_what_comes_near(typed):
    with pytest.raises(ConfigError, match=TYPOS[typed]) as refusal:
        refuse_typos(["defense=ft", typed])
    assert len(str(refusal.value).splitlines()) == 1


def test_what_exists_is_no_typo():
    refuse_typos(["-m", "attack=wanet,badnets", "attack@attack.inner=wanet", "seed=0,1"])
    refuse_typos(["defense@then=ft", "then.lr=1", "+model.options.x=1", "export=null", "~export"])
    refuse_typos(["attack=mine", "--config-dir=/my/yamls"])
    for group, found in NAMES.items():
        for name in found:
            held = OmegaConf.load(CONF / folder_of(group) / f"{name}.yaml")
            refuse_typos(
                [f"{group}={name}", *(f"{group}.{key}=1" for key in held if key != "defaults")]
            )


def test_a_grid_in_a_run_of_its_own_is_said():
    chosen = HydraConf()
    chosen.sweeper = OmegaConf.create({"params": {"attack": "badnets,wanet", "seed": "0,1"}})
    chosen.overrides.task = ["experiment=x", "attack=badnets"]
    chosen.overrides.hydra = ["hydra/launcher=pool"]
    chosen.runtime.choices = {"experiment": "x"}
    first, second = without_grid(chosen, in_grid=False)
    assert "experiment=x is a grid of seed" in first
    assert "hydra/launcher=pool has no effect" in second
    assert not list(without_grid(chosen, in_grid=True))
