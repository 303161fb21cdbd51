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


# What attacks learn first, cut down to seconds.
SHORT: dict[str, list[str]] = {
    "lc": [
        f"++values_for.lc.{short}" for short in ("robust_epochs=1", "robust_steps=2", "steps=4")
    ],
    "lira": ["++values_for.lira.stage1_epochs=1"],
    "lf": [f"++values_for.lf.{short}" for short in ("images=30", "passes=2", "steps=20")],
    "trojan": ["++values_for.trojan.iterations=3"],
    "combat": ["++values_for.combat.generator_epochs=1", "++values_for.combat.width=4"],
    "input_aware": [
        "++values_for.input_aware.count_mask_epochs=false",
        "++values_for.input_aware.mask_epochs=1",
        "++values_for.input_aware.width=4",
    ],
    "ssba": ["++values_for.ssba.epochs=1", "++values_for.ssba.width=4"],
    "sbl": [
        "++values_for.sbl.clean_share=0.4",
        "++values_for.sbl.first_epochs=1",
        "++values_for.sbl.second_epochs=1",
    ],
}
