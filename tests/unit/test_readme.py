"""The methods that README.md shows run as pasted."""

import re

import pytest
import torch

from backdoor_lab.attacks import Attack
from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.config import ROOT
from backdoor_lab.defenses import Chain, Defense
from backdoor_lab.models import load_purified, save_purified
from backdoor_lab.training import Recipe


@pytest.fixture(scope="module")
def shown():
    """Classes of the README's examples by name."""
    found = {}
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
        held = {"__name__": "backdoor_lab.examples.example"}
        exec(compile(code, "README.md", "exec"), held)
        assert held["__doc__"]
        own = [
            kind for kind in held.values() if getattr(kind, "__module__", "") == held["__name__"]
        ]
        found |= {kind.__name__: kind for kind in own}
    return found


def test_the_attack_is_a_whole_attack(shown, spec, images):
    assert issubclass(shown["Stripe"], Attack)
    attack = shown["Stripe"](poison_rate=0.1, target=0)
    attack.attach(spec, Recipe(epochs=1, batch_size=20, lr=0.01), seed=0)
    pixels = images.images.float() / 255
    triggered = attack.trigger(pixels)
    assert triggered.shape == pixels.shape
    assert triggered.min() >= 0
    assert triggered.max() <= 1
    assert (attack.stamp(images.images) != images.images).flatten(1).any(1).all()
    assert torch.equal(pixels, images.images.float() / 255)


def test_the_defense_changes_the_architecture_and_comes_back_from_a_folder(
    shown, spec, images, model, engine, tmp_path
):
    assert issubclass(shown["Adapter"], Defense)
    chain = Chain((shown["Adapter"](epochs=1, lr=0.01, batch_size=20),))
    chain.attach(engine, spec, seed=0)
    purified = chain.purify(model, AuxiliarySet("seen", images, True))
    assert len(purified.edits) == 1
    save_purified(tmp_path, purified)
    some = images.images[:4].float() / 255
    assert torch.allclose(load_purified(tmp_path)(some), purified(some), atol=1e-6)
