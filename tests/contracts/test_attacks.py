"""What every attack in conf/attack keeps."""

import json

import pytest
import torch
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf, open_dict

from backdoor_lab.attacks import Attack
from backdoor_lab.attacks._wrapper import Wrapper
from backdoor_lab.config import CONF
from tests.conftest import names

NODES = {name: OmegaConf.load(CONF / "attack" / f"{name}.yaml") for name in names("attack")}
KINDS = {name: get_class(node._target_) for name, node in NODES.items()}
ATTACKS = list(NODES)
HARMFUL = [name for name in ATTACKS if not KINDS[name].harmless]
BEFOREHAND = [name for name in HARMFUL if not KINDS[name].controls_training]
INSIDE = [name for name in ATTACKS if name not in BEFOREHAND]
CROSSING = [name for name in ATTACKS if KINDS[name].crosses]


def without_facts(node):
    with open_dict(node):
        node.pop("facts", None)
        if "inner" in node:
            without_facts(node.inner)
    return node


@pytest.fixture
def make(config, shop):
    def build(name, seed=0, prepared=True):
        chosen = without_facts(
            config(f"attack={name}", "dataset=digits", "experiment=short").attack
        )
        if "width" in chosen:
            chosen.width = 4
        attack = instantiate(chosen, _convert_="all")
        attack.attach(shop.data.spec, shop.recipe, seed)
        if prepared:
            attack.prepare(shop)
        return attack

    return build


@pytest.mark.parametrize("name", ATTACKS)
def test_facts_are_those_of_the_class(name):
    facts, kind = NODES[name].facts, KINDS[name]
    assert set(facts) <= {"trained_by", "clean_label", "paper"}
    assert ("trained_by" in facts) is not issubclass(kind, Wrapper)
    if "trained_by" in facts:
        assert facts.trained_by == ("attacker" if kind.controls_training else "victim")
    assert facts.get("clean_label", kind.clean_label) == kind.clean_label


@pytest.mark.parametrize("name", ATTACKS)
def test_triggered_images_keep_shape_and_range(make, images, name):
    attack = make(name)
    stamped = attack.stamp(images.images)
    assert stamped.shape == images.images.shape
    assert stamped.dtype == torch.uint8
    floats = attack.trigger(images.images.float() / 255)
    assert floats.min() >= -1e-6
    assert floats.max() <= 1 + 1e-6
    changed = (stamped != images.images).flatten(1).any(1).float().mean()
    assert changed >= 0.99 if name in HARMFUL else changed == 0


@pytest.mark.parametrize("name", CROSSING)
def test_what_only_looks_triggered_is_another_image(make, images, name):
    attack = make(name)
    crossed = attack.stamp_cross(images.images)
    assert crossed.shape == images.images.shape
    assert crossed.dtype == torch.uint8
    assert not torch.equal(crossed, attack.stamp(images.images))
    assert not torch.equal(crossed, images.images)
    assert torch.equal(crossed, attack.stamp_cross(images.images))


@pytest.mark.parametrize("name", ATTACKS)
def test_a_seed_settles_trigger_and_choice(make, images, name):
    first, second = make(name), make(name)
    assert torch.equal(first.stamp(images.images), second.stamp(images.images))
    assert torch.equal(first.choose(images.labels), second.choose(images.labels))


@pytest.mark.parametrize("name", ATTACKS)
def test_state_brings_the_trigger_back(make, images, name):
    attack, other = make(name), make(name, seed=1, prepared=False)
    learnt = [value for value in other.state_dict().values() if value.is_floating_point()]
    torch.manual_seed(0)
    for value in learnt:
        value.uniform_()
    if learnt:
        assert not torch.equal(other.stamp(images.images), attack.stamp(images.images))
    other.load_state_dict(attack.state_dict())
    assert torch.equal(other.stamp(images.images), attack.stamp(images.images))


@pytest.mark.parametrize("name", BEFOREHAND)
def test_the_chosen_are_poisoned_and_nothing_else_is(make, images, name):
    attack = make(name)
    poisoned, chosen = attack.poison(images)
    rest = torch.ones(len(images), dtype=torch.bool)
    rest[chosen] = False
    assert 0 < len(chosen) == len(chosen.unique()) < len(images)
    assert torch.equal(poisoned.images[rest], images.images[rest])
    assert torch.equal(poisoned.labels[rest], images.labels[rest])
    assert (poisoned.images[chosen] != images.images[chosen]).flatten(1).any(1).all()
    assert torch.equal(poisoned.labels[chosen], attack.relabel(images.labels[chosen]))
    if attack.clean_label:
        assert torch.equal(poisoned.labels, images.labels)


@pytest.mark.parametrize("name", INSIDE)
def test_who_poisons_inside_the_training_poisons_nothing_beforehand(make, images, name):
    poisoned, chosen = make(name).poison(images)
    assert len(chosen) == 0
    assert torch.equal(poisoned.images, images.images)
    assert torch.equal(poisoned.labels, images.labels)


@pytest.mark.parametrize("name", HARMFUL)
def test_counted_images_leave_the_target_out(make, images, name):
    attack = make(name)
    assert torch.equal(attack.counted(images.labels), images.labels != attack.target)


@pytest.fixture
def precisions():
    """The types of what layers compute while anything trains."""
    seen = set()

    def note(module, arguments, output):
        if module.training and isinstance(output, torch.Tensor):
            seen.add(output.dtype)

    handle = torch.nn.modules.module.register_module_forward_hook(note)
    yield seen
    handle.remove()


@pytest.mark.parametrize("name", ATTACKS)
def test_an_epoch_trains_the_model_and_leaves_facts_for_the_result(
    make, images, model, shop, precisions, name
):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    attack = make(name)
    attack.details = {}
    attack.train_victim(model, shop)
    after = model.state_dict()
    assert precisions == {torch.float32}  # what trainer.precision=32-true promises
    assert before.keys() == after.keys()
    assert all(value.isfinite().all() for value in after.values())
    assert not torch.equal(before["net.linear.weight"], after["net.linear.weight"])
    assert json.loads(json.dumps(attack.details)) == attack.details
    if name in BEFOREHAND:
        assert attack.details["poisoned"] > 0
    learns_first = KINDS[name].prepare is not Attack.prepare
    assert bool(attack.details) == (name in BEFOREHAND or learns_first)
