import json
import logging
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock, Timeout
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from torchvision.datasets import FakeData

from backdoor_lab.config import plain_config
from backdoor_lab.datasets import RawImages
from backdoor_lab.datasets._base import digest_of_pixels
from backdoor_lab.datasets.cache import cached
from backdoor_lab.datasets.imagefolder import held_out
from backdoor_lab.errors import ConfigError

ROOT = Path(__file__).parents[2]


def configured(name, folder, **changes):
    config = OmegaConf.load(ROOT / "conf" / "dataset" / f"{name}.yaml")
    paths = {"paths": {"data": str(folder), "cache": str(folder / "cache")}}
    return instantiate(
        plain_config(OmegaConf.merge(config, paths, {"dataset": changes}), "dataset")
    )


def draw(file, size=(32, 32), mode="RGB", seed=0):
    file.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(file)
    return pixels


@pytest.fixture
def folder(tmp_path):
    for part, count in (("train", 20), ("test", 3)):
        for number, name in enumerate(("dog", "cat")):
            for image in range(count):
                draw(tmp_path / part / name / f"{image:02d}.png", seed=100 * number + image)
    return tmp_path


def raw(value=0):
    images = torch.full((4, 3, 2, 2), value, dtype=torch.uint8)
    return RawImages(images, torch.arange(4), images[:2], torch.arange(2), ("a", "b", "c", "d"))


class TestCache:
    def never(self):
        pytest.fail("built again")

    def test_second_reading_builds_nothing(self, tmp_path):
        first = cached(tmp_path, "x", {"size": (2, 3)}, raw)
        again = cached(tmp_path, "x", {"size": (2, 3)}, self.never)
        assert torch.equal(first.train_images, again.train_images)
        assert again.test_labels.tolist() == [0, 1]
        assert again.classes == ("a", "b", "c", "d")

    def test_maps_are_copy_on_write(self, tmp_path):
        first = cached(tmp_path, "x", {}, raw)
        first.train_images.fill_(9)
        assert cached(tmp_path, "x", {}, self.never).train_images.max() == 0

    def test_pixels_are_read_once_when_they_are_saved(self, tmp_path, monkeypatch):
        first = cached(tmp_path, "x", {}, raw)
        assert first.pixels == digest_of_pixels(raw()) != digest_of_pixels(raw(1))
        monkeypatch.delattr("backdoor_lab.datasets.cache.digest_of_pixels")
        assert cached(tmp_path, "x", {}, self.never).pixels == first.pixels

    def test_another_key_takes_the_place_of_the_first(self, tmp_path):
        (tmp_path / "x-12345678").mkdir()  # as folders were called once
        cached(tmp_path, "x", {"image_size": 2}, raw)
        assert not (tmp_path / "x-12345678").exists()
        again = cached(tmp_path, "x", {"image_size": 3}, lambda: raw(7))
        assert again.train_images.max() == 7
        assert len(list(tmp_path.glob(f"x-{'?' * 16}"))) == 1

    def damage_byte(self, where):
        data = bytearray((where / "train_images.npy").read_bytes())
        data[-1] ^= 1
        (where / "train_images.npy").write_bytes(data)

    def damage_end(self, where):
        data = (where / "train_labels.npy").read_bytes()
        (where / "train_labels.npy").write_bytes(data[:-5])

    def damage_index(self, where):
        (where / "manifest.json").write_text('{"key"')

    def damage_keys(self, where):
        (where / "manifest.json").write_text(json.dumps([1]))

    def damage_file(self, where):
        (where / "test_images.npy").unlink()

    @pytest.mark.parametrize("kind", ["byte", "end", "index", "keys", "file"])
    def test_damage_rebuilds(self, tmp_path, caplog, kind):
        cached(tmp_path, "x", {}, raw)
        getattr(self, f"damage_{kind}")(next(tmp_path.glob(f"x-{'?' * 16}")))
        with caplog.at_level(logging.WARNING):
            again = cached(tmp_path, "x", {}, lambda: raw(7))
        assert again.train_images.max() == 7
        assert "damaged" in caplog.text

    def test_a_failed_build_leaves_nothing(self, tmp_path):
        with pytest.raises(ZeroDivisionError):
            cached(tmp_path, "x", {}, lambda: 1 / 0)
        assert not list(tmp_path.glob(f"x-{'?' * 16}"))


class TestImageFolder:
    def test_reads_and_splits(self, folder):
        data = configured("imagefolder", folder, root=str(folder)).load()
        assert data.spec.classes == ("cat", "dog")
        assert (len(data.train), len(data.reserved), len(data.test)) == (38, 2, 6)
        with Image.open(folder / "test" / "cat" / "00.png") as image:
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        assert torch.equal(data.test.images[0], pixels)
        assert data.test.labels.tolist() == [0, 0, 0, 1, 1, 1]

    def test_grey_and_other_sizes_and_val(self, folder):
        shutil.move(folder / "test", folder / "val")
        grey = draw(folder / "val" / "cat" / "00.png", mode="L")
        odd = draw(folder / "val" / "cat" / "01.JPG", size=(50, 70))
        assert odd.shape == (70, 50, 3)
        data = configured("imagefolder", folder, root=str(folder)).load()
        assert torch.equal(data.test.images[0], torch.from_numpy(grey).expand(3, 32, 32))
        assert data.test.images.shape == (7, 3, 32, 32)

    def test_a_changed_file_rebuilds(self, folder):
        dataset = configured("imagefolder", folder, root=str(folder))
        before = dataset.load().fingerprint
        assert dataset.load().fingerprint == before
        draw(folder / "test" / "cat" / "00.png", seed=77)
        assert dataset.load().fingerprint != before

    def test_a_change_of_one_pixel_in_many_images_is_another_fingerprint(self, tmp_path):
        fingerprints = []
        for value in (0, 1):
            images = torch.zeros(3000, 3, 2, 2, dtype=torch.uint8)
            images[1000] = value  # not among the thousand
            labels = torch.arange(3000) % 2
            dataset = configured("imagefolder", tmp_path, root=str(tmp_path))
            dataset.read = partial(RawImages, images, labels, images[:2], labels[:2], ("a", "b"))
            fingerprints.append(dataset.load().fingerprint)
        assert fingerprints[0] != fingerprints[1]

    def test_a_limit_is_another_fingerprint(self, folder):
        whole, part = (
            configured("imagefolder", folder, root=str(folder), limit_train=limit).load()
            for limit in (None, 30)
        )
        assert whole.fingerprint != part.fingerprint

    def test_names_need_not_be_utf_8(self, folder):
        odd = folder / os.fsdecode(b"caf\xe9")
        shutil.move(folder / "train", odd / "train")
        shutil.move(folder / "test", odd / "test")
        draw(odd / "train" / "cat" / os.fsdecode(b"\xff.png"))
        images = configured("imagefolder", folder, root=str(odd)).read()
        assert len(images.train_images) == 41

    def test_refuses_other_classes_in_the_test(self, folder):
        shutil.move(folder / "test" / "dog", folder / "test" / "wolf")
        with pytest.raises(ConfigError, match="dog, wolf"):
            configured("imagefolder", folder, root=str(folder)).read()

    def test_refuses_an_empty_class(self, folder):
        (folder / "train" / "eel").mkdir()
        (folder / "test" / "eel").mkdir()
        with pytest.raises(ConfigError, match="eel holds no image"):
            configured("imagefolder", folder, root=str(folder)).read()

    def test_names_a_damaged_image(self, folder):
        (folder / "train" / "cat" / "00.png").write_bytes(b"no image")
        with pytest.raises(ConfigError, match=r"00\.png"):
            configured("imagefolder", folder, root=str(folder)).read()

    @pytest.mark.parametrize("root", [None, "nowhere"])
    def test_names_the_missing_root(self, tmp_path, root):
        with pytest.raises(ConfigError, match=r"dataset\.root="):
            configured("imagefolder", tmp_path, root=root).read()

    def test_checks_num_classes(self, folder):
        with pytest.raises(ConfigError, match="num_classes=3"):
            configured("imagefolder", folder, root=str(folder), num_classes=3).read()

    def test_class_folders_alone_are_split(self, folder):
        root = folder / "train"
        data = configured("imagefolder", folder, root=str(root), reserved=0).load()
        assert data.spec.classes == ("cat", "dog")
        assert (len(data.train), len(data.test)) == (32, 8)
        assert data.test.labels.bincount().tolist() == [4, 4]
        assert data.rests_on == {"source": "20% of the images, held out", "images": 8}
        pixels = {image.numpy().tobytes() for image in data.train.images}
        assert pixels.isdisjoint(image.numpy().tobytes() for image in data.test.images)
        again = configured("imagefolder", folder, root=str(root), reserved=0).load()
        assert torch.equal(data.test.images, again.test.images)

    def test_every_class_is_trained_and_tested_on(self):
        draw = torch.Generator().manual_seed(0)
        labels = torch.tensor([0, 1, 1, 2, 2, 2, 2])
        assert labels[held_out(labels, 0.2, draw)].tolist() == [1, 2]

    def test_classes_stand_in_the_order_that_is_given(self, folder):
        options = {"root": str(folder), "reserved": 0}
        given = configured("imagefolder", folder, classes=["dog", "cat"], **options).load()
        usual = configured("imagefolder", folder, **options).load()
        assert given.spec.classes == ("dog", "cat")
        dogs = [data.train.images[data.train.labels == label].sum()
                for data, label in ((given, 0), (usual, 1))]  # fmt: skip
        assert dogs[0] == dogs[1]
        for odd in (["dog"], ["dog", "cat", "cow"], ["dog", "dog"]):
            with pytest.raises(ConfigError, match=r"dataset\.classes=.*each of them once"):
                configured("imagefolder", folder, classes=odd, **options).load()


class TestTinyImageNet:
    def test_reads_the_layout_of_the_zip(self, tmp_path):
        base = tmp_path / "tiny-imagenet-200"
        for number, name in enumerate(("n02", "n01")):
            draw(base / "train" / name / "images" / f"{name}_0.JPEG", (64, 64), "L", number)
        draw(base / "val" / "images" / "val_0.JPEG", (64, 64))
        (base / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn02\t0\t0\t62\t62\n")
        (base / "wnids.txt").write_text("n02\nn01\n")
        images = configured("tiny_imagenet", tmp_path).read()
        assert images.classes == ("n01", "n02")
        assert images.train_images.shape == (2, 3, 64, 64)
        assert images.test_labels.tolist() == [1]

    def test_says_where_the_zip_belongs(self, tmp_path):
        with pytest.raises(ConfigError, match=r"tiny-imagenet-200\.zip"):
            configured("tiny_imagenet", tmp_path).read()


def test_gtsrb_is_squeezed_to_a_square_and_a_part_of_it_is_said(tmp_path, caplog):
    base = tmp_path / "gtsrb"
    pixels = draw(base / "GTSRB" / "Training" / "00000" / "a.ppm", (60, 30))
    draw(base / "GTSRB" / "Training" / "00001" / "a.ppm", (32, 32))
    draw(base / "GTSRB" / "Final_Test" / "Images" / "00000.ppm", (40, 41))
    (base / "GT-final_test.csv").write_text("Filename;ClassId\n00000.ppm;1\n")
    images = configured("gtsrb", tmp_path).read()
    said = "holds 2 training images of GTSRB, where the papers have 39209"
    assert caplog.text.count(said) == 1
    configured("gtsrb", tmp_path).read()  # from the cache
    assert caplog.text.count(said) == 2
    small = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR)
    assert torch.equal(images.train_images[0], torch.from_numpy(np.array(small)).permute(2, 0, 1))
    assert images.test_labels.tolist() == [1]
    assert len(images.classes) == 43


def test_all_training_images_of_gtsrb_are_downloaded(tmp_path, monkeypatch):
    def download(url, folder, md5):
        assert url.endswith("GTSRB_Final_Training_Images.zip")
        draw(Path(folder) / "GTSRB" / "Final_Training" / "Images" / "00000" / "a.ppm")

    owner = "backdoor_lab.datasets.torchvision_sets"
    monkeypatch.setattr(f"{owner}.download_and_extract_archive", download)
    dataset = configured("gtsrb", tmp_path)
    assert len(dataset.part(tmp_path, train=True)) == 1
    monkeypatch.delattr(f"{owner}.download_and_extract_archive")  # it is there now
    assert len(dataset.part(tmp_path, train=True)) == 1


class FakeCifar(FakeData):
    classes = ("plane", "car")

    def __init__(self, root, train, download):
        super().__init__(6 if train else 4, (3, 32, 32), 2)

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image, int(label)


@pytest.mark.parametrize(("name", "kind"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_cifar_is_taken_as_it_is(tmp_path, monkeypatch, name, kind):
    monkeypatch.setattr(f"torchvision.datasets.{kind}", FakeCifar)
    images = configured(name, tmp_path).read()
    expected, label = FakeCifar(tmp_path, True, True)[5]
    pixels = torch.from_numpy(np.array(expected)).permute(2, 0, 1)
    assert torch.equal(images.train_images[5], pixels)
    assert images.train_labels[5] == label
    assert len(images.test_labels) == 4
    assert images.classes == FakeCifar.classes


class FiledCifar(FakeCifar):
    """Draws from the seed in a file, which the download leaves."""

    opened = 0

    def __init__(self, root, train, download):
        super().__init__(root, train, download)
        type(self).opened += 1
        file = Path(root) / "cifar-10-batches-py" / "data"
        if not file.exists():
            file.parent.mkdir()
            file.write_text("1")
        self.random_offset = int(file.read_text())


@pytest.fixture
def filed(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR10", FiledCifar)
    monkeypatch.setattr(FiledCifar, "opened", 0)
    return configured("cifar10", tmp_path)


def test_a_download_is_decoded_once(filed):
    filed.read()
    opened = FiledCifar.opened
    filed.read()
    assert FiledCifar.opened == opened


def test_a_download_has_one_owner(filed, tmp_path, monkeypatch):
    def part(root, train):
        (lock,) = (tmp_path / "cache").glob("*.download.lock")
        with pytest.raises(Timeout):
            FileLock(lock).acquire(timeout=0)
        raise ZeroDivisionError

    monkeypatch.setattr(filed, "part", part)
    with pytest.raises(ZeroDivisionError):
        filed.read()


def test_other_files_in_the_place_of_a_download_are_decoded(filed, tmp_path):
    before = filed.load().fingerprint
    (tmp_path / "cifar-10-batches-py" / "data").write_text("22")
    assert filed.load().fingerprint != before


def test_what_was_decoded_outlives_its_files(filed, tmp_path, caplog):
    before = filed.load().fingerprint
    shutil.rmtree(tmp_path / "cifar-10-batches-py")
    with caplog.at_level(logging.INFO):
        assert filed.load().fingerprint == before
    assert "cifar-10-batches-py is gone" in caplog.text


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "gtsrb"])
def test_the_files_that_are_looked_at_are_those_of_the_facts(tmp_path, name):
    config = OmegaConf.load(ROOT / "conf" / "dataset" / f"{name}.yaml")
    assert config.dataset.facts.files == [configured(name, tmp_path).source]


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "gtsrb"])
def test_torchvision_sets_need_a_root(tmp_path, name):
    with pytest.raises(ConfigError, match=r"dataset\.root=null"):
        configured(name, tmp_path, root=None).read()


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "gtsrb", "tiny_imagenet"])
def test_only_cifar10_is_mirrored(tmp_path, name):
    dataset = configured(name, tmp_path)
    assert dataset.flip == (name == "cifar10")
    assert dataset.padding == 4


def test_real_tiny_imagenet(tmp_path):
    source = Path(os.environ.get("BACKDOOR_LAB_DATA", ROOT.parent / "shared" / "data"))
    if not (source / "unpack.py").exists():
        pytest.skip(f"no real images in {source}; BACKDOOR_LAB_DATA names their folder")
    unpack = [sys.executable, str(source / "unpack.py"), str(tmp_path), "tiny-imagenet-200"]
    subprocess.run(unpack, check=True, capture_output=True)
    images = configured("tiny_imagenet", tmp_path, image_size=32).read()
    assert images.train_labels.bincount().tolist() == [100] * 200
    assert images.test_labels.bincount().tolist() == [10] * 200
