"""Spectral signatures: a planted direction, and what leaves the scores alone."""

import pytest
import torch
from torchvision.io import write_png

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.detectors.spectral import Spectral, signature

NOTHING = AuxiliarySet("none", None, True)


def planted(seed, mean):
    """A hundred features, ten of them shifted; the class's mean along that direction is `mean`."""
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn((100, 20), generator=draw, dtype=torch.float64)
    features[:, 0] += mean
    features[:10, 0] += 6
    return features


def recall(mean, reference):
    found = [
        (signature(planted(seed, mean), reference)[0].argsort(descending=True)[:15] < 10).sum()
        for seed in range(20)
    ]
    return torch.stack(found).sum().item() / 200


def test_centred_scores_find_the_planted_images_wherever_the_class_lies():
    assert all(recall(mean, reference=False) == 1 for mean in (0, 3, -3))
    assert recall(3, reference=True) == 1
    assert recall(-3, reference=True) == pytest.approx(0.18, abs=0.08)


def test_rotation_and_shift_change_nothing_and_scale_squares():
    features = planted(0, 0)
    turn = torch.linalg.qr(torch.randn((20, 20), dtype=torch.float64))[0]
    scores, share = signature(features)
    turned, share_turned = signature(features @ turn + 5)
    torch.testing.assert_close(turned, scores)
    assert share_turned == pytest.approx(share)
    torch.testing.assert_close(signature(3 * features)[0], 9 * scores)


@pytest.fixture
def detector(engine, spec, tmp_path):
    made = Spectral(tmp_path, images=1000, reference=False, threshold=None, at_once=64)
    made.attach(engine, spec, seed=0)
    return made


def test_a_class_with_images_apart_is_named_with_its_files(detector, model, images, tmp_path):
    draw = torch.Generator().manual_seed(1)
    for label in range(10):
        (tmp_path / str(label)).mkdir()
        for number in range(20):
            image = torch.randint(90, 110, (3, 32, 32), generator=draw, dtype=torch.uint8)
            if label == 4 and number < 4:
                image[:, :16] = 255
            write_png(image, str(tmp_path / str(label) / f"{number:02d}.png"))
    found = detector.inspect(model, NOTHING)
    assert found.suspected == ("4",)
    assert found.details["labels"] == "of the folders"
    assert {*list(found.details["highest"])[:4]} == {f"4/0{number}.png" for number in range(4)}


def test_few_images_of_a_class_say_nothing(detector, model, images, tmp_path):
    for number, image in enumerate(images.images[:12]):
        write_png(image, str(tmp_path / f"{number}.png"))
    found = detector.inspect(model, NOTHING)
    assert found.verdict == "no verdict"
    assert "suspected images or more" in found.reason
    assert found.details["labels"] == "of the model"
