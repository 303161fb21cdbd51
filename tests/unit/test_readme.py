"""The methods that README.md shows run as pasted, with the yamls beside them."""

import inspect
import re

import pytest
import torch
import yaml

from backdoor_lab.attacks import Attack
from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.config import ROOT
from backdoor_lab.defenses import Chain, Defense
from backdoor_lab.models import load_purified, save_purified
from backdoor_lab.run.building import misfit
from backdoor_lab.training import Recipe

TEXT = (ROOT / "README.md").read_text()
YAMLS = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)]
NODES = {node["_target_"].rpartition(".")[2]: node for node in YAMLS}
FACTS = {
    "Stripe": {"trained_by": "victim", "clean_label": False},
    "Adapter": {"paper": None},
}


@pytest.fixture(scope="module")
def shown():
    """Classes of the README's examples by name."""
    found = {}
    for code in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        held = {"__name__": "backdoor_lab.examples.example"}
        exec(compile(code, "README.md", "exec"), held)
        assert held["__doc__"]
        own = [
            kind for kind in held.values() if getattr(kind, "__module__", "") == held["__name__"]
        ]
        found |= {kind.__name__: kind for kind in own}
    return found


@pytest.fixture
def built(shown):
    """An example as its yaml makes it, some values changed."""

    def build(name, **changes):
        values = {key: NODES[name][key] for key in NODES[name].keys() - {"_target_", "facts"}}
        return shown[name](**values | changes)

    return build


def test_each_example_has_a_yaml_with_its_facts_and_all_its_parameters(shown):
    assert NODES.keys() == shown.keys()
    for name, node in NODES.items():
        group = "attacks" if issubclass(shown[name], Attack) else "defenses"
        assert node["_target_"] == f"backdoor_lab.{group}.{name.lower()}.{name}"
        assert node["facts"] == FACTS[name]
        assert node.keys() == {"_target_", "facts", *inspect.signature(shown[name]).parameters}


def test_the_attack_is_a_whole_attack(shown, built, spec, images):
    assert issubclass(shown["Stripe"], Attack)
    assert built("Stripe", all_to_all=True).all_to_all
    attack = built("Stripe")
    attack.attach(spec, Recipe(epochs=1, batch_size=20, lr=0.01), seed=0)
    pixels = images.images.float() / 255
    triggered = attack.trigger(pixels)
    assert triggered.shape == pixels.shape
    assert triggered.min() >= 0
    assert triggered.max() <= 1
    assert (attack.stamp(images.images) != images.images).flatten(1).any(1).all()
    assert torch.equal(pixels, images.images.float() / 255)


def test_the_defense_changes_the_architecture_and_comes_back_from_a_folder(
    shown, built, spec, images, model, engine, tmp_path
):
    assert issubclass(shown["Adapter"], Defense)
    chain = Chain((built("Adapter", epochs=1, batch_size=20),))
    chain.attach(engine, spec, seed=0)
    purified = chain.purify(model, AuxiliarySet("seen", images, True))
    assert len(purified.edits) == 1
    save_purified(tmp_path, purified)
    some = images.images[:4].float() / 255
    assert torch.allclose(load_purified(tmp_path)(some), purified(some), atol=1e-6)


def test_a_value_that_the_defense_cannot_take_is_refused_by_its_key(built):
    with pytest.raises(ValueError, match="epochs") as error:
        built("Adapter", epochs=0)
    assert misfit("defense", error.value).startswith("defense.epochs=0 does not fit")
