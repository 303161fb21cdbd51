"""What every attack in conf/attack keeps."""

import json

import pytest
import torch
from hydra.utils import instantiate

from tests.conftest import names

ATTACKS = names("attack")
HARMFUL = [name for name in ATTACKS if name != "none"]


@pytest.fixture
def make(config, shop):
    def build(name, seed=0):
        chosen = config(f"attack={name}", "dataset=digits", "experiment=short").attack
        if "width" in chosen:
            chosen.width = 4
        attack = instantiate(chosen, _convert_="all")
        attack.attach(shop.data.spec, shop.recipe, seed)
        attack.prepare(shop)
        return attack

    return build


@pytest.mark.parametrize("name", ATTACKS)
def test_triggered_images_keep_shape_and_range(make, images, name):
    stamped = make(name).stamp(images.images)
    assert stamped.shape == images.images.shape
    assert stamped.dtype == torch.uint8
    floats = make(name).trigger(images.images.float() / 255)
    assert floats.min() >= -1e-6
    assert floats.max() <= 1 + 1e-6


@pytest.mark.parametrize("name", HARMFUL)
def test_the_trigger_survives_eight_bits(make, images, name):
    changed = (make(name).stamp(images.images) != images.images).flatten(1).any(1)
    assert changed.float().mean() >= 0.99


@pytest.mark.parametrize("name", HARMFUL)
def test_what_only_looks_triggered_is_another_image(make, images, name):
    attack = make(name)
    if not attack.crosses:
        pytest.skip("has nothing that only looks triggered")
    crossed = attack.stamp_cross(images.images)
    assert crossed.shape == images.images.shape
    assert crossed.dtype == torch.uint8
    assert not torch.equal(crossed, attack.stamp(images.images))
    assert not torch.equal(crossed, images.images)
    assert torch.equal(crossed, attack.stamp_cross(images.images))


@pytest.mark.parametrize("name", HARMFUL)
def test_facts_fit_into_a_result(make, name):
    assert json.loads(json.dumps(make(name).details)) == make(name).details


@pytest.mark.parametrize("name", ATTACKS)
def test_a_seed_settles_trigger_and_choice(make, images, name):
    first, second = make(name), make(name)
    assert torch.equal(first.stamp(images.images), second.stamp(images.images))
    assert torch.equal(first.choose(images.labels), second.choose(images.labels))


@pytest.mark.parametrize("name", ATTACKS)
def test_state_brings_the_trigger_back(make, images, name):
    first, other = make(name), make(name, seed=1)
    other.load_state_dict(first.state_dict())
    assert torch.equal(first.stamp(images.images), other.stamp(images.images))


@pytest.mark.parametrize("name", ATTACKS)
def test_only_the_chosen_are_poisoned(make, images, name):
    attack = make(name)
    poisoned, chosen = attack.poison(images)
    rest = torch.ones(len(images), dtype=torch.bool)
    rest[chosen] = False
    assert torch.equal(poisoned.images[rest], images.images[rest])
    assert torch.equal(poisoned.labels[rest], images.labels[rest])
    assert len(chosen.unique()) == len(chosen)
    if attack.clean_label:
        assert (images.labels[chosen] == attack.target).all()
        assert torch.equal(poisoned.labels, images.labels)


@pytest.mark.parametrize("name", HARMFUL)
def test_counted_images_leave_the_target_out(make, images, name):
    attack = make(name)
    counted = attack.counted(images.labels)
    assert torch.equal(counted, images.labels != attack.target)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_epoch_trains_the_model(make, images, model, shop, name):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    attack = make(name)
    attack.poison_rate = max(attack.poison_rate, 0.1)
    attack.train_victim(model, shop)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(value.isfinite().all() for value in after.values())
    assert not torch.equal(before["net.linear.weight"], after["net.linear.weight"])
