"""What every defense in conf/defense keeps."""

import inspect
from copy import deepcopy

import pytest
import torch
from hydra.utils import instantiate

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.defenses import Defense
from backdoor_lab.errors import ConfigError
from tests.conftest import names

DEFENSES = names("defense")
SHORT = {"epochs": 1, "iterations": 2, "batch_size": 20}


@pytest.fixture
def make(config, spec, engine):
    def build(name):
        node = config(f"defense={name}").defense
        for key, value in SHORT.items():
            if key in node:
                node[key] = value
        defense = instantiate(node, _convert_="all")
        defense.attach(engine, spec, seed=0)
        return defense

    return build


def test_a_defense_is_handed_a_model_and_the_auxiliary_set_alone():
    assert list(inspect.signature(Defense.purify).parameters) == ["self", "model", "aux"]
    assert list(inspect.signature(Defense.attach).parameters) == ["self", "engine", "spec", "seed"]


@pytest.mark.parametrize("name", DEFENSES)
def test_the_architecture_is_kept(make, model, images, name):
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    purified = make(name).purify(deepcopy(model), AuxiliarySet("seen", images, True))
    after = purified.state_dict()
    assert {key: value.shape for key, value in after.items()} == shapes
    assert all(value.isfinite().all() for value in after.values())
    assert not purified.training
    assert purified(images.images[:2].float() / 255).shape == (2, 10)


@pytest.mark.parametrize("name", DEFENSES)
def test_the_same_seed_gives_the_same_model(make, model, images, name):
    aux = AuxiliarySet("seen", images, True)
    first = make(name).purify(deepcopy(model), aux).state_dict()
    second = make(name).purify(deepcopy(model), aux).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", DEFENSES)
def test_what_cannot_serve_is_refused_in_a_sentence(make, name):
    defense = make(name)
    if defense.needs_images:
        with pytest.raises(ConfigError, match="aux=none"):
            defense.check(has_images=False, labelled=True)
    if defense.needs_labels:
        with pytest.raises(ConfigError, match="aux.labelled=false"):
            defense.check(has_images=True, labelled=False)
    defense.check(has_images=True, labelled=True)
    if defense.needs_batch_norm:
        with pytest.raises(ConfigError, match="BatchNorm"):
            defense.check_model(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("name", DEFENSES)
def test_labels_are_unread_where_they_are_not_needed(make, model, images, name):
    defense = make(name)
    if defense.needs_labels:
        pytest.skip("reads labels by nature")
    other = type(images).of(images.images, images.labels.flip(0))
    first = defense.purify(deepcopy(model), AuxiliarySet("seen", images, False)).state_dict()
    second = make(name).purify(deepcopy(model), AuxiliarySet("seen", other, False)).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
