"""A run that ends before its end says so, in words and in its exit code, and leaves no half."""

import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from backdoor_lab.config import ROOT
from tests.end_to_end.test_command_line import lab

LONG = ["attack=badnets", "defense=none", "aux=none", "pictures=false", "recipe.epochs=2000"]
SMALL = ["dataset.limit_train=200", "dataset.limit_test=100"]


def asked_to_end(number, folder, *arguments):
    """Exit code and words of a run that gets a signal some seconds into its training."""
    command = [sys.executable, "run.py", *arguments, f"paths.outputs={folder}"]
    run = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    for _ in range(1200):
        time.sleep(0.1)
        if list(folder.rglob("*.partial")):
            break
    time.sleep(3)
    run.send_signal(number)
    text = run.communicate(timeout=60)[0]
    return run.returncode, text


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_training_that_is_asked_to_end(tmp_path, number, code):
    ended, text = asked_to_end(number, tmp_path, *LONG, *SMALL)
    assert ended == code, text
    assert f"stopped by {number.name}" in text
    assert "Traceback" not in text
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.parametrize(
    ("launcher", "number", "code"), [("basic", signal.SIGINT, 130), ("pool", signal.SIGTERM, 143)]
)
def test_a_grid_that_is_asked_to_end_tells_what_is_done(tmp_path, launcher, number, code):
    grid = ["-m", f"hydra/launcher={launcher}", "seed=0,1", *LONG, *SMALL]
    ended, text = asked_to_end(number, tmp_path, *grid)
    assert ended == code, text
    assert "0 done, 2 left" in text


def test_a_training_that_diverges_stores_nothing(tmp_path):
    wrong = ["recipe.lr=1e30", "recipe.epochs=3", *SMALL, "recipe.batch_size=20"]
    text = lab(f"paths.outputs={tmp_path}", "attack=badnets", "task=victim", *wrong, expect=1)
    assert "not finite" in text
    assert "Traceback" not in text
    assert not list(tmp_path.rglob("model.safetensors"))
    assert not list(tmp_path.rglob("result.json"))


def test_a_disk_that_takes_no_more_is_one_sentence(tmp_path):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))  # bytes; a model has 2.8 MB

    choice = ["attack=badnets", "task=victim", "recipe.epochs=1", "pictures=false", *SMALL]
    text = lab(f"paths.outputs={tmp_path}", *choice, expect=1, before=small_files)
    assert "File too large" in text
    assert "allowed: folders of yours with space left" in text
    assert "Traceback" not in text
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and file.suffix != ".lock"]
