"""STRIP: entropies of toys, exact chances, folders of suspected images."""

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn
from torchvision.io import write_png

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.datasets import ImageSet
from backdoor_lab.detectors.strip import STRIP, below_normal, crowd_p, entropy, p_values
from backdoor_lab.errors import ConfigError


class Patched(nn.Module):
    """Class 7 where the corner is full of light; else what the image's colours say, softly."""

    def __init__(self):
        super().__init__()
        self.bright = nn.Linear(3, 10)

    def forward(self, images):
        lit = images[..., -1, -1].amin(1) >= 1
        soft = self.bright(images.mean((2, 3)))
        return torch.where(lit[:, None], 1e4 * torch.eye(10)[7], soft)


@pytest.fixture
def folder(tmp_path, images):
    """Sixteen images, half of them with a bright corner."""
    for number, image in enumerate(images.images[:16]):
        image = image.clamp(max=60)
        if number % 2:
            image[:, -1, -1] = 255
        write_png(image, str(tmp_path / f"{number:02d}.png"))
    return tmp_path


@pytest.fixture
def clean(images):
    dark = images.images.clamp(max=60)
    return AuxiliarySet("seen", ImageSet.of(dark, images.labels), True)


def detector(engine, spec, folder, **changes):
    options = {"overlays": 20, "calibration": 500, "images": 1000, "fpr": 0.05, "at_once": 100}
    made = STRIP(folder, **options | changes)
    made.attach(engine, spec, seed=0)
    return made


def test_entropies_of_certain_and_of_undecided_answers():
    assert entropy(torch.zeros(2, 10)).tolist() == pytest.approx([np.log2(10)] * 2)
    assert entropy(1e4 * torch.eye(10)[:2]).tolist() == [0, 0]


def test_triggered_images_keep_their_class_under_any_overlay(engine, spec, folder, clean):
    torch.manual_seed(0)
    found = detector(engine, spec, folder).inspect(Patched(), clean)
    assert found.verdict == "flagged"
    assert found.suspected == ("7",)
    assert found.scalar == pytest.approx(0.75, abs=0.25)
    assert 0.5 <= found.scores["7"] < 0.6
    assert {name: h for name, h in found.details["lowest"].items() if h == 0}.keys() == {
        f"{number:02d}.png" for number in range(1, 16, 2)
    }


def test_the_order_of_overlays_means_nothing(engine, spec, folder, images):
    made = detector(engine, spec, folder)
    overlays = images.images[:9].float() / 255
    model = Patched()
    first, second = (
        made.entropies(model, images.images[:4], one) for one in (overlays, overlays.flip(0))
    )
    np.testing.assert_allclose(first, second, rtol=1e-6)


def test_the_sum_of_two_images_is_not_clipped(engine, spec, folder):
    def certain_of_excess(images):
        return torch.where(images.amax((1, 2, 3)) > 1, 1e4, 0.0)[:, None] * torch.eye(10)[7]

    images = torch.full((2, *spec.shape), 153, dtype=torch.uint8)
    images[1] = 51
    overlays = torch.full((3, *spec.shape), 0.6)
    entropies = detector(engine, spec, folder).entropies(certain_of_excess, images, overlays)
    assert entropies.tolist() == pytest.approx([0, np.log2(10)])


def test_p_values_and_the_chance_of_so_many():
    calm = np.arange(1, 20.0)
    assert p_values(calm, np.array([0.5, 1, 30])).tolist() == [0.05, 0.1, 1]
    draw = np.random.default_rng(0)
    false = []
    for _ in range(2000):
        below = (p_values(draw.normal(size=99), draw.normal(size=50)) <= 0.05).sum()
        false.append(crowd_p(int(below), 50, 99, 0.05) <= 0.05)
    assert np.mean(false) < 0.06
    assert crowd_p(30, 50, 99, 0.05) < 1e-6
    assert crowd_p(50, 50, 9, 0.05) == 1  # nine images know no share of a twentieth


def test_too_few_clean_images_give_no_verdict(engine, spec, folder, images):
    few = AuxiliarySet("seen", images.take(torch.arange(30)), True)
    found = detector(engine, spec, folder).inspect(Patched(), few)
    assert found.verdict == "no verdict"
    assert "15 clean images calibrate it" in found.reason
    assert found.scalar is not None


def test_the_reference_fits_a_normal():
    calm = np.array([1.0, 2, 3])
    limit = norm.ppf(0.01, 2, calm.std())
    assert below_normal(calm, np.array([limit - 0.1, limit + 0.1])) == 0.5


def test_without_suspected_images_it_does_not_apply(engine, spec, clean, tmp_path):
    lone = detector(engine, spec, None)
    found = lone.inspect(Patched(), clean)
    assert found.verdict == "not applicable"
    assert "paths.suspected=null" in found.reason
    with pytest.raises(ConfigError, match=r"detector=strip does not apply.*paths\.suspected"):
        lone.check(has_images=True, labelled=True)
    with pytest.raises(ConfigError, match=r"paths\.suspected=.* is no folder"):
        detector(engine, spec, tmp_path / "nowhere").check(has_images=True, labelled=True)
    with pytest.raises(ConfigError, match="holds no image"):
        detector(engine, spec, tmp_path).inspect(Patched(), clean)
