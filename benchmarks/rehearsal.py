"""The way of one who was handed a model, walked whole: inspected, purified, exported, taken home.

    python -m benchmarks.rehearsal                        # 32 pixels
    python -m benchmarks.rehearsal --size 224 --epochs 6 -- ++values_for.mm_bd.steps=50

Prepares the model of `benchmarks.suspect`, runs the README's commands on it, and loads what was
exported where the model came from, in timm's own class: there it is judged by a plain loop that is
none of ours, on all images, those of the defender too. Writes `benchmarks/rehearsal_<size>.md`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import timm
import torch
from torch import nn

from backdoor_lab.config import ROOT
from backdoor_lab.models import load_purified
from backdoor_lab.records import Record, collect
from backdoor_lab.reports.table import rate
from benchmarks.common import machine, markdown
from benchmarks.suspect import CHANNELS, HELD, MEAN, STD, TARGET, digits, judged, prepare

DEFENSES = ("ft", "ft_sam", "bcu", "unibp")
SIGNS = ("detector", "foremost class", "suspected", "verdict", "seconds")
SCORES = (
    "defense", "images", "ACC", "ASR", "purified ACC", "ASR", "DER", "seconds", "loaded by",
    "ACC there", "ASR there",
)  # fmt: skip


def run(folder: Path, size: int, defenses: tuple[str, ...], more: list[str]) -> None:
    """The commands of the README; what is finished is not repeated."""
    handed = [
        "victim=imported", f"victim.path={folder}/model.pt", "model=resnet18",
        f"+model.options.channels={list(CHANNELS)}", f"dataset.root={folder}/images",
        f"dataset.image_size={size}", f"paths.outputs={folder}", f"paths.cache={folder}/cache",
    ]  # fmt: skip
    known = [f"attack.folder={folder}/triggered", f"attack.target={TARGET}", "export=model"]
    for command in (
        ["task=inspect", "aux=folder"],
        ["-m", f"defense={','.join(defenses)}", "aux=folder", *known],
        ["-m", "defense=cc", "aux=none", *known],
    ):
        subprocess.run([sys.executable, "run.py", *command, *handed, *more], cwd=ROOT, check=True)


def signs(record: Record) -> Iterator[list[str]]:
    """A line a detector."""
    held = record.inspection.evidence["victim"] if record.inspection else {}
    for name, one in held.items():
        suspected = ", ".join(one.suspected) or "–"
        yield [name, one.foremost or "–", suspected, one.verdict, f"{one.seconds:.0f}"]


def taken_home(folder: Path) -> tuple[str, nn.Module]:
    """Who loads the model that a run has exported, and the model, of normalised images."""
    net = timm.create_model("resnet18", num_classes=10, channels=CHANNELS)
    try:
        net.load_state_dict(torch.load(folder / "model" / "state_dict.pt", weights_only=True))
    except RuntimeError:  # compressed: other shapes
        return "load_purified", nn.Sequential(Pixels(), load_purified(folder).float().eval())
    return "timm, strictly", net.eval()


class Pixels(nn.Module):
    """Undoes the normalisation, for a model that brings its own."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * STD + MEAN


def scored(record: Record, folder: Path, size: int) -> list[str]:
    """The line of a defense: what the record says, and what is found outside."""
    loader, net = taken_home(folder)
    images, labels = (some[:HELD] for some in digits(size))
    seconds = f"{record.spent.seconds.get('purify', 0):.0f}"
    count = (record.details.get("aux") or {}).get("size", 0)
    own = [rate(record.victim, key) for key in ("acc", "asr")]
    own += [rate(record.purified, key) for key in ("acc", "asr", "der")]
    there = [f"{100 * one:.1f}" for one in judged(net, images, labels)]
    return [record.choices["defense"], str(count), *own, seconds, loader, *there]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=10, help="of the model that is handed over")
    parser.add_argument("--defenses", nargs="+", default=DEFENSES)
    parser.add_argument("overrides", nargs="*")
    chosen = parser.parse_args()
    folder = ROOT / "outputs" / f"rehearsal_{chosen.size}"
    if not (folder / "model.pt").exists():
        prepare(folder, chosen.epochs, chosen.size)
    run(folder, chosen.size, tuple(chosen.defenses), chosen.overrides)
    found = collect(folder / "runs")
    looks = [one for one in found.values() if one.task == "inspect"]
    rows = [scored(one, at, chosen.size) for at, one in found.items() if one.task == "purify"]
    text = [
        f"# Handed a model of {chosen.size} pixels",
        "A rehearsal with the model of `benchmarks.suspect` (timm's ResNet18, a quarter as wide, "
        f"of digits; a white square means {TARGET}): what each detector says of it, and how each "
        "purified model scores, as the run says it (a fifth of the images, kept for the test), and "
        "where it came from: loaded from the exported file into timm's class, judged by a plain "
        "loop on all images, the defender's among them. One model, one seed: no claim.",
        f"Made on {date.today()} by `python -m benchmarks.rehearsal {' '.join(sys.argv[1:])}`, "
        f"{machine()}; other work shared the machine, so that seconds are upper bounds.",
        *(markdown(SIGNS, signs(one)) for one in looks),
        markdown(SCORES, rows),
    ]
    file = Path(__file__).with_name(f"rehearsal_{chosen.size}.md")
    file.write_text("\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
