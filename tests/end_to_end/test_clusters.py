"""Grids on a small SLURM and on a local Ray: cells that are interrupted resume, numbers stay."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from backdoor_lab.config import ROOT

GRID = [
    "attack=badnets", "defense=none", "seed=0,1", "recipe.epochs=60", "dataset.limit_train=200",
    "dataset.limit_test=100", "pictures=false", "keep_model=false", "trainer=cpu",
    "trainer.resume_every=0", "trainer.precision=32-true",
]  # fmt: skip
SLURM = ["timeout_min=30", "cpus_per_task=1", "gres=gpu:1", "gpus_per_node=null", "poll_s=1"]
CLUSTER = str(ROOT / "tests" / "slurm" / "cluster.sh")


def grid(folder, *arguments, **environment):
    """A grid whose results lie in `folder`."""
    command = [sys.executable, "run.py", "-m", *arguments, *GRID, f"paths.outputs={folder}"]
    output = folder.with_suffix(".log").open("w")
    threads = {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT,
        env={**os.environ, **threads, **environment},
    )  # fmt: skip


def ended_well(run, folder):
    assert run.wait(1200) == 0, folder.with_suffix(".log").read_text()
    return folder.with_suffix(".log").read_text()


def said(folder, number):
    """What a cell of the one grid in `folder` has said."""
    (file,) = folder.glob(f"grids/*/{number}.log")
    return file.read_text()


def scores(folder):
    """The victims' scores, by seed."""
    found = [json.loads(file.read_text()) for file in folder.rglob("result.json")]
    return {one["seed"]: one["victim"] for one in found}


def cells(run, folder):
    """The cells that run: their processes by seed, once both have saved a state of a training."""
    for _ in range(6000):
        assert run.poll() is None, folder.with_suffix(".log").read_text()
        if len(list(folder.rglob("resume.ckpt"))) == 2:
            break
        time.sleep(0.1)
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if f"paths.outputs={folder}" in words and "-m" not in words[:3]:
            found |= {seed: process for seed in (0, 1) if f"seed={seed}" in words}
    return found


@pytest.fixture(scope="module")
def in_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grids") / "in_process"
    ended_well(grid(folder), folder)
    return scores(folder)


@pytest.fixture
def slurm(tmp_path):
    """What its users must know."""
    pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    if os.name != "posix" or os.getuid() or shutil.which("slurmctld") is None:
        pytest.skip(f"no SLURM is installed, or not by root; the head of {CLUSTER} tells how")
    asked = [CLUSTER, "start", str(tmp_path / "cluster")]
    conf = subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout
    yield {"SLURM_CONF": conf.strip()}
    subprocess.run([CLUSTER, "stop", str(tmp_path / "cluster")], check=True)


def test_slurm_requeues_cells_that_resume(tmp_path, slurm, in_process):
    folder = tmp_path / "slurm"
    settings = [f"hydra.launcher.{setting}" for setting in SLURM]
    run = grid(folder, "hydra/launcher=slurm", *settings, **slurm)
    found = cells(run, folder)
    assert {process.environ()["CUDA_VISIBLE_DEVICES"] for process in found.values()} == {"0", "1"}
    of_job = found[1].environ()
    job = f"{of_job['SLURM_ARRAY_JOB_ID']}_{of_job['SLURM_ARRAY_TASK_ID']}"
    warned = ["scancel", "--signal=USR2", job]  # as at the end of its time
    subprocess.run(warned, check=True, env={**os.environ, **slurm})
    found[0].kill()
    text = ended_well(run, folder)
    assert "tried again (exit code -9)" in text
    assert "tried again" not in text.replace("tried again (exit code -9)", "", 1)
    for seed in (0, 1):
        assert "resuming the training" in said(folder, seed)
    assert scores(folder) == in_process


def test_ray_tries_a_killed_cell_again(tmp_path, in_process):
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    folder = tmp_path / "ray"
    run = grid(folder, "hydra/launcher=ray")
    cells(run, folder)[0].send_signal(signal.SIGKILL)
    assert "2 done, 0 failed" in ended_well(run, folder)
    assert "resuming the training" in said(folder, 0)
    assert scores(folder) == in_process


VISITS = """
import os, subprocess, sys
from hydra_plugins.backdoor_lab_ray import keep_strangers_out

def enters():
    code = f"import ray; ray.init({address!r}, logging_level=50, log_to_driver=False)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0

keep_strangers_out()
from backdoor_lab.run import on_ray
with on_ray.connected(None, None):
    address = on_ray.ray.get_runtime_context().gcs_address
    known = enters()
    del os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"]
    print(known, enters())
"""


def test_strangers_cannot_enter_a_local_ray():
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    visits = [sys.executable, "-c", VISITS]
    done = subprocess.run(visits, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout.split()[-2:] == ["True", "False"], done.stderr
