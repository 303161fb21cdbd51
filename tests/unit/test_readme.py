"""The attack that README.md shows runs as pasted."""

import re

import torch

from backdoor_lab.attacks import Attack
from backdoor_lab.config import ROOT
from backdoor_lab.training import Recipe


def test_the_example_is_a_whole_attack(spec, images):
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    held = {"__name__": "stripe"}
    exec(compile(code, "README.md", "exec"), held)
    (method,) = (kind for kind in held.values() if getattr(kind, "__module__", "") == "stripe")
    assert issubclass(method, Attack)
    assert held["__doc__"]
    assert method.__doc__
    attack = method(poison_rate=0.1, target=0)
    attack.attach(spec, Recipe(epochs=1, batch_size=20, lr=0.01), seed=0)
    pixels = images.images.float() / 255
    triggered = attack.trigger(pixels)
    assert triggered.shape == pixels.shape
    assert triggered.min() >= 0
    assert triggered.max() <= 1
    assert (attack.stamp(images.images) != images.images).flatten(1).any(1).all()
    assert torch.equal(pixels, images.images.float() / 255)
