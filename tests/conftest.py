"""What all tests share: composed configs, a small engine, a small spec."""

import os
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from backdoor_lab.config import CONF, register
from backdoor_lab.datasets import Data, DataSpec, ImageSet
from backdoor_lab.models import ModelFactory
from backdoor_lab.store import Provenance, Store
from backdoor_lab.training import Engine, Recipe
from backdoor_lab.victims import Workshop
from tests.tiny import Tiny

register()


def names(group):
    """Every name of a group, from its folder: a new yaml is tested by being there."""
    return sorted(file.stem for file in (CONF / group).glob("[!_]*.yaml"))


@pytest.fixture
def config(tmp_path):
    """Composes the config with overrides, its folders under `tmp_path`."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield lambda *overrides: compose(
            "config",
            [f"paths.outputs={tmp_path}", f"paths.cache={tmp_path}", *overrides],
        )


@pytest.fixture(scope="session")
def engine():
    return Engine(accelerator="cpu", precision="32-true", progress=False)


@pytest.fixture(scope="session")
def spec():
    classes = tuple("0123456789")
    return DataSpec("tiny", classes, (3, 32, 32), (0.5,) * 3, (0.25,) * 3, 2, False)


@pytest.fixture
def model(spec):
    factory = ModelFactory("preact_resnet18", options={"width": 16})
    return factory.build(spec, seed=0).eval()


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return Tiny()


@pytest.fixture(scope="session")
def images(spec):
    """60 random images, six of each class."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (60, *spec.shape), generator=draw, dtype=torch.uint8)
    return ImageSet.of(pixels, torch.arange(60) % 10)


@pytest.fixture(scope="session")
def shop(spec, images, engine, tmp_path_factory):
    """An attacker's workshop over `images`; what attacks make there serves all tests."""
    nothing = images.take(torch.arange(0))
    data = Data(spec, images, reserved=nothing, test=images, fingerprint="tiny", original=60)
    factory = ModelFactory("preact_resnet18", options={"width": 16})
    identity = {"dataset": {"name": "tiny"}, "model": "narrow", "recipe": "one epoch", "seed": 0}
    recipe = Recipe(epochs=1, batch_size=20, lr=0.01)
    store = Store(tmp_path_factory.mktemp("victims"))
    return Workshop(data, recipe, factory, engine, store, Provenance(), "tiny-narrow", identity)


@pytest.fixture(scope="session")
def photographs():
    """The folder with real photographs, or a skip that says where it was looked for."""
    default = CONF.parent.parent / "shared" / "data"
    folder = Path(os.environ.get("BACKDOOR_LAB_DATA", default))
    if not (folder / "unpack.py").is_file():
        pytest.skip(f"no photographs in {folder}; set BACKDOOR_LAB_DATA to a folder that has them")
    return folder


@pytest.fixture
def step(monkeypatch):
    """One step of an attack that stamps inside it: what the model saw, which labels were wanted."""

    def take(attack, images, labels):
        seen = {}

        def model(batch):
            seen["views"] = batch
            return torch.zeros(len(batch), 10)

        def loss(logits, wanted):
            seen["wanted"] = wanted
            return logits.sum()

        object.__setattr__(attack, "model", model)
        attack.cpu_generator, attack.generator = (
            torch.Generator().manual_seed(seed) for seed in (1, 2)
        )
        monkeypatch.setattr("torch.nn.functional.cross_entropy", loss)
        attack.training_step((images, labels), 0)
        return seen["views"], seen["wanted"]

    return take
