"""The same commands on real photographs: CIFAR-10 as a user's folders, GTSRB as torchvision's."""

import subprocess
import sys

import pytest

from tests.end_to_end.test_command_line import lab, results

SMALL = [
    "model=preact_resnet18_narrow",
    "recipe=quick",
    "recipe.epochs=4",
    "dataset.limit_train=2000",
    "dataset.limit_test=500",
    "attack=badnets",
    "defense=unibp",
    "defense.epochs=2",
    "aux=seen",
]


@pytest.fixture(scope="module")
def unpacked(photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for name in ("cifar10", "gtsrb"):
        subprocess.run(
            [sys.executable, photographs / "unpack.py", folder, name], check=True, timeout=300
        )
    return folder


@pytest.mark.parametrize(
    ("dataset", "where"),
    [("imagefolder", "dataset.root={}/cifar10"), ("gtsrb", "paths.data={}")],
)
def test_photographs_go_through(unpacked, tmp_path, dataset, where):
    place = where.format(unpacked)
    lab(f"dataset={dataset}", place, f"paths.outputs={tmp_path}", f"paths.cache={tmp_path}", *SMALL)
    (result,) = results(tmp_path)
    chance = 1 / len(result["details"]["aux"]["per_class"])
    assert result["victim"]["acc"] > 1.5 * chance
    assert result["details"]["defense"]["unibp"]["k"] > 0
