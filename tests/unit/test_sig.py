"""SIG: its sinusoid vanishes where it ought to, to the level."""

import pytest
import torch

from backdoor_lab.attacks.sig import SIG
from backdoor_lab.datasets import DataSpec
from backdoor_lab.training import Recipe


def stamped(side, level=128, **options):
    spec = DataSpec("x", tuple("0123456789"), (3, side, side), (0,) * 3, (1,) * 3, 4, False)
    attack = SIG(0.1, 0, **options)
    attack.attach(spec, Recipe(epochs=1, batch_size=2, lr=0.1), seed=0)
    return attack.stamp(torch.full((1, 3, side, side), level, dtype=torch.uint8))[0, 0, 0].int()


@pytest.mark.parametrize("delta", [20, 40, 60, 80])
@pytest.mark.parametrize(("side", "frequency"), [(32, 6), (64, 6), (224, 6), (224, 10)])
def test_grey_stays_grey_at_the_zeros_of_the_sinusoid(side, frequency, delta):
    row = stamped(side, delta=delta, frequency=frequency)
    zeros = [column for column in range(side) if 2 * column * frequency % side == 0]
    assert side // 2 in zeros
    assert row[zeros].tolist() == [128] * len(zeros)
    assert (row == 128).sum() < side / 4


@pytest.mark.parametrize("side", [32, 64])
def test_every_level_survives_half_the_width(side):
    rows = torch.stack([stamped(side, level) for level in range(256)])
    assert rows[:, side // 2].tolist() == list(range(256))


@pytest.mark.parametrize(("side", "delta"), [(32, 40), (64, 40), (224, 60)])
def test_truncation_never_takes_more_than_the_amplitude(side, delta):
    change = stamped(side, delta=delta) - 128
    assert -delta <= change.min() <= 2 - delta
    assert delta - 2 <= change.max() <= delta
