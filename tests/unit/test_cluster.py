"""What launchers of clusters share, and how deaths of jobs are told."""

import logging
import os
import signal
import sys
import threading
import time

import psutil
import pytest
from hydra import compose

from backdoor_lab.errors import ConfigError
from backdoor_lab.run import cluster, slurm, slurm_cell
from backdoor_lab.run.cells import makers_and_rest
from backdoor_lab.run.child import killed
from backdoor_lab.run.pool import Work
from backdoor_lab.run.worker import of_driver, run_child
from hydra_plugins.backdoor_lab_grid import GridSweeper
from hydra_plugins.backdoor_lab_pool import PoolLauncher
from hydra_plugins.backdoor_lab_ray import RayLauncher
from hydra_plugins.backdoor_lab_slurm import SlurmLauncher

CELLS = [Work(number, (f"cell={number}",), victim) for number, victim in enumerate("abacb")]


def test_the_first_cell_of_each_victim_goes_ahead():
    makers, rest = makers_and_rest(CELLS)
    assert [work.number for work in makers] == [0, 1, 3]
    assert [work.number for work in rest] == [2, 4]


def test_arrays_are_no_larger_than_slurm_takes(monkeypatch):
    monkeypatch.setattr(slurm, "ARRAY", 2)
    numbers = [[work.number for work in array] for array in slurm.arrays(CELLS)]
    assert numbers == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(
    ("launcher", "extra"),
    [(RayLauncher(None, None, 1, 2), "ray"), (SlurmLauncher(1, 2, 1.0), "slurm")],
)
def test_a_missing_package_is_a_sentence_that_names_the_extra(monkeypatch, launcher, extra):
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: name)
    with pytest.raises(ConfigError, match=rf"pip install '\.\[{extra}\]'"):
        launcher.setup(hydra_context=None, task_function=None, config=None)


def test_slurm_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ConfigError, match="finds no sbatch"):
        SlurmLauncher(1, 2, 1.0).setup(hydra_context=None, task_function=None, config=None)


@pytest.mark.parametrize(
    ("launcher", "value"),
    [("pool", "threads=0"), ("pool", "per_gpu=0"), ("pool", "tries=0"), ("ray", "tries=0"),
     ("ray", "num_gpus=-1"), ("slurm", "poll_s=-1"), ("slurm", "max_num_timeout=-1")],
)  # fmt: skip
def test_a_value_that_suits_no_launcher_is_refused_before_the_grid(config, launcher, value):
    config()  # opens Hydra's configuration folder
    choice = [f"hydra/launcher={launcher}", f"hydra.launcher.{value}"]
    cfg = compose("config", choice, return_hydra_config=True)
    with pytest.raises(ConfigError, match=rf"hydra\.launcher\.{value}\S* does not fit"):
        GridSweeper().setup(hydra_context=None, task_function=None, config=cfg)


@pytest.mark.parametrize(
    ("launcher", "elsewhere"),
    [(RayLauncher(None, None, 1, 2), True), (PoolLauncher(1, 1, 2), False)],
)
def test_a_cluster_is_elsewhere(monkeypatch, launcher, elsewhere):
    told = []
    monkeypatch.setattr("backdoor_lab.run.grid.run_grid", lambda *given: told.append(given[2]))
    sweeper = GridSweeper()
    sweeper.config, sweeper.launcher = None, launcher
    sweeper.sweep([])
    assert told == [elsewhere]


def test_a_child_gets_its_environment_and_leaves_its_exit_code(tmp_path):
    code = "import os, sys; print(os.environ['A'], flush=True); sys.exit(3)"
    command = [sys.executable, "-c", code]
    assert run_child(command, {"A": "b"}, tmp_path / "logs" / "0.log") == 3
    assert (tmp_path / "logs" / "0.log").read_text() == "b\n"


def test_a_child_reads_relative_paths_from_the_driver_s_folder(tmp_path):
    command = [sys.executable, "-c", "import os; print(os.getcwd())"]
    run_child(command, {}, tmp_path / "0.log", tmp_path)
    assert (tmp_path / "0.log").read_text() == f"{tmp_path.resolve()}\n"


def test_the_driver_s_variables_travel(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("BACKDOOR_LAB_DATASETS", "/data")
    monkeypatch.setenv("SECRET", "stays")
    assert {
        "WANDB_MODE": "offline",
        "BACKDOOR_LAB_DATASETS": "/data",
    }.items() <= of_driver().items()
    assert "SECRET" not in of_driver()


def test_a_child_is_deaf_to_warnings_and_ends_with_its_worker(tmp_path):
    warned = "import os, signal, time; os.kill(os.getpid(), signal.SIGUSR2); print(os.getpid())"
    code = f"{warned}; os.sys.stdout.flush(); time.sleep(600)"
    said = tmp_path / "0.log"

    def interrupt():
        while not (said.exists() and said.read_text().endswith("\n")):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells may have it ignored
    threading.Thread(target=interrupt, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_child([sys.executable, "-c", code], {}, said)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not psutil.pid_exists(int(said.read_text()))
    assert killed(-signal.SIGTERM)
    assert not killed(1)


@pytest.mark.parametrize(
    ("code", "words"),
    [("0", "done"), ("1", "failed"), ("-9", "tried again"), ("137", "tried again"), (None, "no")],
)
def test_a_job_that_died_is_sent_once_more(monkeypatch, tmp_path, caplog, code, words):
    monkeypatch.setattr(slurm_cell, "VISIBLE", 0.0)
    queue = slurm.Queue([], tmp_path, {}, 1, 2, 0.0, {"7_0": CELLS[0]}, used={0: 1})
    monkeypatch.setattr(queue, "gone", lambda: {"7_0"})
    if code is not None:
        queue.code(CELLS[0]).write_text(code)
    with caplog.at_level(logging.INFO):
        ended = queue.ended()
        again = queue.again(ended)
    assert again == CELLS[: code not in ("0", "1")]
    assert words in caplog.text
    queue.used[0] = 2
    assert not queue.again(ended)


@pytest.fixture
def queue(monkeypatch, tmp_path):
    """A queue that loses what its list `losses` says, look by look; `sent` holds its arrays."""
    monkeypatch.setattr(slurm_cell, "VISIBLE", 0.0)
    queue = slurm.Queue([], tmp_path, {}, requeued=1, tries=2, poll=0.0)
    queue.sent, queue.losses, queue.taken = [], [], []

    def send(array, after=None):
        name = str(len(queue.sent))
        queue.sent.append([work.number for work in array])
        queue.used |= {work.number: queue.used.get(work.number, 0) + 1 for work in array}
        queue.jobs |= {f"{name}_{place}": work for place, work in enumerate(array)}
        return name

    def gone():
        return queue.losses.pop(0) & queue.jobs.keys() if queue.losses else set(queue.jobs)

    monkeypatch.setattr(queue, "send", send)
    monkeypatch.setattr(queue, "gone", gone)
    monkeypatch.setattr(queue, "cancel", lambda: queue.taken.extend(queue.jobs))
    return queue


def test_jobs_that_die_together_are_sent_again_as_one_array(queue, monkeypatch):
    waits = []
    slurm_wait = slurm.left_in
    queue.losses = [{"0_1", "0_2"}, {"0_1", "0_2"}]  # the third maker is still there

    def left_in(files):
        waits.append(len(files))
        if len(waits) == 2:
            for work in CELLS:
                queue.code(work).write_text("0")
        return slurm_wait(files)

    monkeypatch.setattr(slurm, "left_in", left_in)
    queue.run(CELLS)
    assert queue.sent == [[0, 1, 3], [2, 4], [1, 3]]
    assert waits == [2, 5]
    assert not queue.taken


def test_a_cancelled_array_ends_the_grid_and_says_so(queue, caplog):
    queue.code(CELLS[0]).write_text("143")  # it ran, and ends after those that waited
    queue.losses = [{"0_1", "0_2"}, {"0_0", "0_1", "0_2"}]
    with caplog.at_level(logging.INFO):
        queue.run(CELLS)
    assert queue.sent == [[0, 1, 3], [2, 4]]
    assert "jobs 0 were cancelled: the grid ends with them" in caplog.text
    assert {"1_0", "1_1"} <= set(queue.taken)


def test_jobs_are_gone_only_if_the_queue_answers(monkeypatch, tmp_path):
    queue = slurm.Queue([], tmp_path, {}, 1, 2, 0.0, jobs=dict(zip("ab", CELLS, strict=False)))
    for name, body in {"good": "echo b", "bad": "exit 1"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "squeue").write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bad"))
    assert queue.gone() == set()
    monkeypatch.setenv("PATH", str(tmp_path / "good"))
    assert queue.gone() == {"a"}


def test_ray_frees_all_cells_behind_a_victim_or_the_next_maker():
    on_ray = pytest.importorskip("backdoor_lab.run.on_ray", reason="the extra `ray` is missing")
    behind = list(CELLS[:3])
    assert on_ray.next_after(False, behind) == CELLS[:1]
    assert on_ray.next_after(True, behind) == CELLS[1:3]
    assert behind == []


def test_ray_hands_a_cell_the_driver_s_folder_and_variables(monkeypatch, tmp_path):
    on_ray = pytest.importorskip("backdoor_lab.run.on_ray", reason="the extra `ray` is missing")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    given = []

    class Remote:
        def options(self, **_):
            return self

        def remote(self, *arguments):
            given.extend(arguments)

    monkeypatch.setattr(on_ray.ray, "remote", lambda function: Remote())
    on_ray.RayTasks([], tmp_path, on_ray.Needs(0, 1, 2)).send(CELLS[0])
    assert given[1]["WANDB_MODE"] == "offline"
    assert given[3] == tmp_path
