"""What every detector in conf/detector keeps."""

import inspect
from copy import deepcopy

import pytest
import torch
from hydra.utils import instantiate
from torchvision.io import write_png

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.config import CONF, plain_config
from backdoor_lab.detectors import Detector, Panel
from backdoor_lab.errors import ConfigError
from tests.conftest import names

DETECTORS = names("detector")
NOTHING = AuxiliarySet("none", None, True)
METHODS = [name for name in DETECTORS if "facts:" in (CONF / f"detector/{name}.yaml").read_text()]
SHORT = {"steps": 2, "passes": 2, "mask_steps": 2, "overlays": 4, "starts": 3}


def shortened(node):
    """The same at any depth, with few steps."""
    if not isinstance(node, dict):
        return node
    return {key: SHORT.get(key, shortened(value)) for key, value in node.items()}


@pytest.fixture
def make(config, spec, engine, images, tmp_path):
    folder = tmp_path / "suspected"
    folder.mkdir()
    for number, image in enumerate(images.images[:12]):
        write_png(image, str(folder / f"{number}.png"))

    def build(name, *overrides):
        cfg = config(f"detector={name}", f"paths.suspected={folder}", *overrides)
        panel = instantiate(shortened(plain_config(cfg, "detector")), _convert_="all")
        panel.attach(engine, spec, seed=0)
        return panel

    return build


def facts(evidence):
    """All of it but its seconds."""
    return {key: value for key, value in vars(evidence).items() if key != "seconds"}


def test_a_detector_is_handed_a_model_and_the_auxiliary_set_alone():
    assert list(inspect.signature(Detector.inspect).parameters) == ["self", "model", "aux"]
    assert list(inspect.signature(Panel.attach).parameters) == ["self", "engine", "spec", "seed"]


@pytest.mark.parametrize("name", METHODS)
def test_the_model_stays_as_it_is_and_a_seed_says_the_same(make, model, images, name):
    aux = AuxiliarySet("seen", images.take(torch.arange(20)), True)
    before = deepcopy(model.state_dict())
    first = make(name).inspect_all(model, aux)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    second = make(name).inspect_all(model, aux)
    assert {n: facts(one) for n, one in first.items()} == {n: facts(o) for n, o in second.items()}
    assert all(one.cannot_see and one.seconds > 0 for one in first.values())
    assert all(one.reason or one.calibrated for one in first.values())


@pytest.mark.parametrize("name", [*METHODS, "all"])
def test_what_does_not_apply_is_a_sentence_or_a_refusal(make, model, name):
    panel = make(name, "paths.suspected=null")
    for one in panel.members:
        lacks = one.lacks(has_images=False, labelled=True)
        if lacks:
            found = one.inspect(model, NOTHING)
            assert found.verdict == "not applicable"
            assert found.reason == lacks
            with pytest.raises(ConfigError, match="does not apply"):
                one.check(has_images=False, labelled=True)
    if len(panel.members) != 1:
        panel.check(has_images=False, labelled=True)


def test_all_is_every_file_of_the_folder(make):
    assert len(make("all").members) == len(METHODS) == len(DETECTORS) - 2
    assert not make("none").members


def test_values_reach_a_detector_among_all(config):
    cfg = config("++values_for.mm_bd.steps=7")
    assert plain_config(cfg, "detector")["among"]["mm_bd"]["steps"] == 7
