"""A run that is asked to end says so, in words and in its exit code."""

import os
import signal
import subprocess
import sys
import time

import pytest

from backdoor_lab.config import ROOT
from tests.end_to_end.test_command_line import lab

LONG = ["attack=badnets", "defense=none", "aux=none", "pictures=false", "recipe.epochs=2000"]
SMALL = ["dataset.limit_train=200", "dataset.limit_test=100"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_training_that_is_asked_to_end(tmp_path, number, code):
    command = [sys.executable, "run.py", *LONG, *SMALL, f"paths.outputs={tmp_path}"]
    run = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    for _ in range(1200):
        time.sleep(0.1)
        if list(tmp_path.rglob("*.partial")):
            break
    time.sleep(3)
    run.send_signal(number)
    text = run.communicate(timeout=60)[0]
    assert run.returncode == code, text
    assert f"stopped by {number.name}" in text
    assert "Traceback" not in text
    assert not list(tmp_path.rglob("result.json"))


def test_a_training_that_diverges_stores_nothing(tmp_path):
    wrong = ["recipe.lr=1e30", "recipe.epochs=3", *SMALL, "recipe.batch_size=20"]
    text = lab(f"paths.outputs={tmp_path}", "attack=badnets", "task=victim", *wrong, expect=1)
    assert "not finite" in text
    assert "Traceback" not in text
    assert not list(tmp_path.rglob("model.safetensors"))
    assert not list(tmp_path.rglob("result.json"))
