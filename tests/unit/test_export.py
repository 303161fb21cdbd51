"""Triggered images as files: what is written is what a victim was trained and judged on."""

import csv

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.io import decode_image

from backdoor_lab.attacks.badnets import BadNets
from backdoor_lab.attacks.wanet import WaNet
from backdoor_lab.exports.model.purified_model import brought, named
from backdoor_lab.exports.poisoned import PoisonedImages
from backdoor_lab.store.folders import seal
from backdoor_lab.victims import Victim
from backdoor_lab.victims.imported.layout import Layout


@pytest.fixture
def victim(shop, model):
    def build(attack):
        attack.attach(shop.data.spec, shop.recipe, seed=0)
        nothing = torch.empty(0, dtype=torch.int64)
        return Victim(model, attack, nothing, "badnets", seconds=0, cached=False)

    return build


def test_npz_holds_images_labels_and_indices(shop, victim, images, tmp_path):
    badnets = victim(BadNets(0.1, 3))
    folder = tmp_path / "out"
    PoisonedImages("npz").write(folder, shop, badnets)
    test, train = np.load(folder / "test.npz"), np.load(folder / "train.npz")
    assert test["images"].shape == (54, 32, 32, 3)
    assert (test["label"] != 3).all()
    assert (test["wanted"] == 3).all()
    stamped = badnets.attack.stamp(images.images[test["index"]]).permute(0, 2, 3, 1)
    assert np.array_equal(test["images"], stamped.numpy())
    assert len(train["images"]) == 6
    assert np.array_equal(train["label"], images.labels[train["index"]].numpy())
    assert (train["wanted"] == 3).all()


def test_png_is_lossless_and_has_a_table(shop, victim, images, tmp_path):
    badnets = victim(BadNets(0.1, 3))
    folder = tmp_path / "out"
    PoisonedImages("png").write(folder, shop, badnets)
    with (folder / "test" / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 54
    first = decode_image(str(folder / "test" / rows[0]["file"]))
    index = int(rows[0]["index"])
    assert torch.equal(first, badnets.attack.stamp(images.images[index : index + 1])[0])


def test_an_attack_that_poisons_inside_the_training_has_no_training_part(shop, victim, tmp_path):
    folder = tmp_path / "out"
    PoisonedImages("npz").write(folder, shop, victim(WaNet(0.1, 0)))
    assert (folder / "test.npz").exists()
    assert not (folder / "train.npz").exists()


def test_a_file_that_nobody_sealed_is_not_handed_back(model, tmp_path):
    save_file({"their.extra": torch.ones(1)}, tmp_path / "aside.safetensors")
    layout = Layout({}, {})
    victim = Victim(model, None, None, "imported", layout=layout, folder=tmp_path)
    seal(tmp_path)
    (tmp_path / "._config.json").write_text("left by another system")
    assert [file.name for file in brought(victim)] == ["aside.safetensors"]
    assert "their.extra" in named(model, victim)
    (tmp_path / "manifest.json").write_text("{}")
    assert "their.extra" not in named(model, victim)
