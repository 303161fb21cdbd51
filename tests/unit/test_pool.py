"""Cells in child processes: places, victims first, a kill that costs one try."""

import os
import signal
import subprocess
import sys
import time

import pytest

from backdoor_lab.config import ROOT
from backdoor_lab.run.pool import Pool, Work, places, visible_gpus

CELL = """
import os, pathlib, signal, sys, time
folder, name, deed = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
with (folder / "log").open("a") as log:
    log.write(f"start {name} {os.environ['PLACE']}\\n")
time.sleep(0.3)
if deed == "kill" and not (folder / name).exists():
    (folder / name).touch()
    os.kill(os.getpid(), signal.SIGKILL)
with (folder / "log").open("a") as log:
    log.write(f"end {name}\\n")
sys.exit(deed == "fail")
"""


@pytest.fixture
def run(tmp_path):
    script = tmp_path / "cell.py"
    script.write_text(CELL)

    def start(*cells, count=2):
        spots = [{"PLACE": str(number)} for number in range(count)]
        pool = Pool([sys.executable, str(script), str(tmp_path)], spots, tmp_path / "grids")
        pool.run([Work(n, (name, deed), victim) for n, (name, deed, victim) in enumerate(cells)])
        return (tmp_path / "log").read_text().splitlines()

    return start


def test_cells_of_one_victim_wait_for_the_first_of_them(run):
    log = run(("a", "go", "v"), ("b", "go", "v"), ("c", "go", "v"), ("d", "go", "w"))
    assert {line[:7] for line in log[:2]} == {"start a", "start d"}
    assert log.index("end a") < min(n for n, line in enumerate(log) if line[:7] == "start b")
    assert sum(line.startswith("end") for line in log) == 4


def test_no_two_cells_share_a_place(run):
    log = run(*((name, "go", name) for name in "abcdef"))
    busy = {}
    for line in log:
        word, name, *place = line.split()
        if word == "start":
            assert place[0] not in busy.values()
            busy[name] = place[0]
        else:
            del busy[name]


def test_a_kill_costs_one_try_and_a_failure_is_not_repeated(run, caplog):
    with caplog.at_level("INFO"):
        log = run(("a", "kill", "v"), ("b", "fail", "w"), ("c", "go", "v"))
    assert sum(line.startswith("start a") for line in log) == 2
    assert sum(line.startswith("start b") for line in log) == 1
    assert {"end a", "end c"} <= set(log)
    assert "tried again (exit code -9): a kill" in caplog.text
    assert "failed (exit code 1): b fail" in caplog.text


def test_each_visible_gpu_is_a_place(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert visible_gpus() == ["2", "5"]
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places(2, 1)] == ["2", "2", "5", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert all("CUDA_VISIBLE_DEVICES" not in place for place in places(1, 1))


def test_children_end_with_the_grid(tmp_path):
    code = (
        "import sys; from pathlib import Path; from backdoor_lab.run.pool import Pool, Work; "
        f"Pool([sys.executable, '-c', 'import time; time.sleep(60)'], [{{}}], Path('{tmp_path}'))"
        ".run([Work(0, (), 'v')])"
    )
    grid = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    children = f"/proc/{grid.pid}/task/{grid.pid}/children"
    for _ in range(200):
        time.sleep(0.05)
        if os.path.exists(children) and (pids := open(children).read().split()):  # noqa: SIM115
            break
    else:
        pytest.skip("this system does not tell a process's children")
    grid.send_signal(signal.SIGTERM)
    assert grid.wait(20) == 143
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
