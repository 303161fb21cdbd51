"""What every defense in conf/defense keeps."""

import inspect
from copy import deepcopy

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.defenses import Chain, Defense
from backdoor_lab.defenses._base import batch_norms
from backdoor_lab.errors import ConfigError, spelled
from backdoor_lab.models import load_purified, save_purified
from backdoor_lab.training import Recipe, Tuning
from tests.conftest import names
from tests.unit.test_models import ZOO, from_zoo, on_meta

DEFENSES = names("defense")
SHORT = {"epochs": 1, "iterations": 2, "rounds": 1}  # by a key's last word
SHORT |= {"images": 40}  # that are synthesised
NOTHING = AuxiliarySet("none", None, False)
ON_BATCH_NORM = {"aft", "anp", "bnp", "cc", "clp", "rnp", "unibp", "unibp_random"}
"""Those whose hold is BatchNorm; another defense is taken at its word."""


def shortened(node):
    """What makes a defense short on sixty images."""
    words = {key: key.rsplit("_", 1)[-1] for key in node}
    short = {key: SHORT[word] for key, word in words.items() if word in SHORT}
    return short | {"batch_size": 20} if "batch_size" in node else short


@pytest.fixture
def make(config, spec, engine):
    def build(name):
        node = OmegaConf.to_container(config(f"defense={name}").defense, resolve=True)
        node.pop("facts")
        chain = Chain((instantiate(node | shortened(node), _convert_="all"),))
        chain.attach(engine, spec, seed=0)
        return chain

    return build


def test_a_defense_is_handed_a_model_and_the_auxiliary_set_alone():
    assert list(inspect.signature(Defense.purify).parameters) == ["self", "model", "aux"]
    assert list(inspect.signature(Defense.attach).parameters) == ["self", "engine", "spec", "seed"]


@pytest.mark.parametrize("name", DEFENSES)
def test_the_architecture_is_kept_or_can_be_told(make, model, images, tmp_path, name):
    before = deepcopy(model.state_dict())
    defense = make(name)
    purified = defense.purify(model, AuxiliarySet("seen", images, True))
    after = purified.state_dict()
    shapes = {key: value.shape for key, value in before.items()}
    if defense.keeps_architecture:
        assert {key: value.shape for key, value in after.items()} == shapes
        assert not purified.edits
    else:
        assert purified.edits
    assert all(value.isfinite().all() for value in after.values())
    assert not any(module.training for module in purified.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    save_purified(tmp_path, purified)
    batch = images.images[:2].float() / 255
    torch.testing.assert_close(load_purified(tmp_path)(batch), purified(batch))


@pytest.mark.parametrize("name", DEFENSES)
def test_the_same_seed_gives_the_same_model(make, model, images, name):
    aux = AuxiliarySet("seen", images, True)
    first, second = (make(name).purify(model, aux).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", DEFENSES)
def test_what_cannot_serve_is_refused_in_a_sentence(make, name):
    defense = make(name)
    if defense.needs_images:
        with pytest.raises(ConfigError, match="aux=none"):
            defense.check(has_images=False, labelled=True)
        method = spelled(defense.links[0])
        with pytest.raises(ConfigError, match=rf"1 image\(s\), but defense={method} needs more"):
            defense.check_size(1)
    if defense.needs_labels:
        with pytest.raises(ConfigError, match="aux.labelled=false"):
            defense.check(has_images=True, labelled=False)
    defense.check(has_images=True, labelled=True)
    defense.check_size(60)
    if defense.needs_batch_norm:
        with pytest.raises(ConfigError, match="BatchNorm"):
            defense.check_model(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("name", DEFENSES)
def test_images_are_unread_where_they_are_not_needed(make, model, images, name):
    defense = make(name)
    if defense.needs_images:
        pytest.skip("reads images by nature")
    first = defense.purify(model, NOTHING).state_dict()
    second = make(name).purify(model, AuxiliarySet("seen", images, True)).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", DEFENSES)
def test_labels_are_unread_where_they_are_not_needed(make, model, images, name):
    defense = make(name)
    if defense.needs_labels:
        pytest.skip("reads labels by nature")
    other = type(images).of(images.images, images.labels.flip(0))
    first = defense.purify(model, AuxiliarySet("seen", images, False)).state_dict()
    second = make(name).purify(model, AuxiliarySet("seen", other, False)).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def zoo(spec):
    """Every model of conf/model, without memory for its weights."""
    return {name: on_meta(lambda name=name: from_zoo(name).build(spec, 0)) for name in ZOO}


@pytest.mark.parametrize("name", DEFENSES)
def test_of_the_zoo_only_what_has_no_batch_norm_is_refused(make, zoo, name):
    defense, refusals = make(name), {}
    for model, network in zoo.items():
        try:
            defense.check_model(network)
        except ConfigError as refusal:
            refusals[model] = str(refusal)
    kept = {model for model, network in zoo.items() if batch_norms(network)}
    assert "vgg19" not in kept
    bound = defense.needs_batch_norm or name in ON_BATCH_NORM
    assert refusals.keys() == (zoo.keys() - kept if bound else set())
    for refusal in refusals.values():
        assert refusal.startswith("model without BatchNorm, but defense=")
        assert len(refusal.splitlines()) == 1


@pytest.fixture(scope="module")
def mobile(spec, images, engine):
    """A victim that has learnt a little: all of a fresh one's stem is what `tsbd` zeroes."""
    network = from_zoo("mobilenetv3_large").build(spec, seed=0)
    engine.fit(Tuning(network, Recipe(3, 20, lr=0.05), None, seed=0), images, "a few steps")
    return network.eval()


@pytest.mark.parametrize("name", DEFENSES)
def test_a_mobile_network_is_purified(make, mobile, images, name):
    purified = make(name).purify(mobile, AuxiliarySet("seen", images, True))
    assert all(value.isfinite().all() for value in purified.state_dict().values())
    logits = purified(images.images[:2].float() / 255)
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()
