"""The smallest network that defenses of batch normalisation have a hold on, and short attacks."""

from torch import nn

from backdoor_lab.datasets import DataSpec

SPEC = DataSpec("tiny", ("a", "b"), (3, 8, 8), (0.5,) * 3, (0.5,) * 3, 1, True)


class Tiny(nn.Module):
    """Two convolutions with BatchNorm, and a head; images (N, 3, 8, 8) to logits (N, 2)."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(8, 2)

    def forward(self, images):
        return self.head(self.body(images).mean((2, 3)))


# What attacks learn first, cut down to seconds: values by attack, as data sets have them.
SHORT: dict[str, dict[str, object]] = {
    "combat": {"generator_epochs": 1, "width": 4},
    "input_aware": {"count_mask_epochs": "false", "mask_epochs": 1, "width": 4},
    "lc": {"robust_epochs": 1, "robust_steps": 2, "steps": 4},
    "lf": {"images": 30, "passes": 2, "steps": 20},
    "lira": {"stage1_epochs": 1},
    "sbl": {"clean_share": 0.4, "first_epochs": 1, "second_epochs": 1},
    "ssba": {"epochs": 1, "width": 4},
    "trojan": {"iterations": 3},
}


def short(attack):
    """The overrides that make `attack` quick."""
    values = SHORT.get(attack, {})
    return [f"++values_for.{attack}.{key}={value}" for key, value in values.items()]
