"""Cells in child processes: places, victims first, a kill that costs one try."""

import os
import signal
import subprocess
import sys
import time

import pytest

from backdoor_lab.config import ROOT
from backdoor_lab.config.hardware import launcher_here, visible_gpus
from backdoor_lab.run import child
from backdoor_lab.run.pool import Child, Pool, Work, places

CELL = """
import os, pathlib, signal, sys, time
folder, name, deed = pathlib.Path(__file__).parent, sys.argv[1], sys.argv[2]
with (folder / "log").open("a") as log:
    log.write(f"start {name} {os.environ['PLACE']} {os.getpid()}\\n")
time.sleep(0.3)
if deed == "kill" and not (folder / name).exists():
    (folder / name).touch()
    os.kill(os.getpid(), signal.SIGKILL)
if deed == "orphan" and not (folder / name).exists():
    (folder / name).touch()
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
if deed == "sleep":
    time.sleep(60)
with (folder / "log").open("a") as log:
    log.write(f"end {name}\\n")
sys.exit(int(deed) if deed.isdigit() else deed == "fail")
"""


@pytest.fixture
def pool(tmp_path, monkeypatch):
    monkeypatch.setattr(child, "LOADED", [])  # the cells need no torch
    script = tmp_path / "cell.py"
    script.write_text(CELL)
    spots = [{"PLACE": str(number)} for number in range(2)]
    return Pool(script, spots, tmp_path / "grids")


@pytest.fixture
def run(pool, tmp_path):
    def start(*cells):
        pool.run([Work(n, (name, deed), victim) for n, (name, deed, victim) in enumerate(cells)])
        return (tmp_path / "log").read_text().splitlines()

    return start


def test_cells_of_one_victim_wait_for_the_first_of_them(run):
    log = run(("a", "go", "v"), ("b", "go", "v"), ("c", "go", "v"), ("d", "go", "w"))
    assert {line[:7] for line in log[:2]} == {"start a", "start d"}
    assert log.index("end a") < min(n for n, line in enumerate(log) if line[:7] == "start b")
    assert sum(line.startswith("end") for line in log) == 4


def test_no_two_cells_share_a_place_or_a_process(run):
    log = run(*((name, "go", name) for name in "abcdef"))
    busy, processes = {}, set()
    for line in log:
        word, name, *place = line.split()
        if word == "start":
            assert place[0] not in busy.values()
            busy[name] = place[0]
            processes.add(place[1])
        else:
            del busy[name]
    assert len(processes) == 6


def test_a_kill_costs_one_try_and_a_failure_is_not_repeated(run, caplog):
    with caplog.at_level("INFO"):
        log = run(("a", "kill", "v"), ("b", "fail", "w"), ("c", "go", "v"))
    assert sum(line.startswith("start a") for line in log) == 2
    assert sum(line.startswith("start b") for line in log) == 1
    assert {"end a", "end c"} <= set(log)
    assert "tried again (exit code -9): a kill" in caplog.text
    assert "failed (exit code 1): b fail" in caplog.text


def test_the_death_of_the_server_costs_the_cells_that_ran_one_try(run):
    log = run(("a", "orphan", "v"), ("b", "go", "v"), ("c", "go", "w"), ("d", "go", "x"))
    assert sum(line.startswith("start a") for line in log) == 2
    assert {"end a", "end b", "end c", "end d"} <= set(log)


def test_a_server_that_dies_while_it_is_asked_is_asked_once_more(run, pool, monkeypatch):
    begun, deaths = Pool.begun, [EOFError, BrokenPipeError]

    def dying(self, arguments):
        if deaths:
            raise deaths.pop()
        return begun(self, arguments)

    monkeypatch.setattr(Pool, "begun", dying)
    with pytest.raises(EOFError):  # twice is no accident
        run(("a", "go", "v"))
    assert "end b" in run(("b", "go", "v"))


def test_what_another_process_runs_is_told_and_not_tried_again(run, pool):
    log = run(("a", str(child.BUSY), "v"), ("b", "go", "w"))
    assert sum(line.startswith("start a") for line in log) == 1
    assert pool.busy == {0}


def test_victims_that_nobody_makes_come_first(pool):
    pool.made, pool.elsewhere = {"v"}, {"w"}
    pool.running = [Child(Work(9, (), "x"), {}, None)]
    waiting = [Work(number, (), victim) for number, victim in enumerate("xvwy")]
    assert pool.next(waiting).victim == "y"
    assert pool.next(waiting[:3]).victim == "v"
    assert pool.next(waiting[:1]) is None


def test_each_visible_gpu_is_a_place(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert visible_gpus() == ["2", "5"]
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places(2, 1)] == ["2", "2", "5", "5"]
    assert launcher_here() == "pool"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert all("CUDA_VISIBLE_DEVICES" not in place for place in places(1, 1))
    assert launcher_here() == "basic"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_children_end_with_the_grid_which_says_so(tmp_path, number):
    (tmp_path / "cell.py").write_text(CELL)
    code = (
        "from pathlib import Path; from backdoor_lab.run import child; child.LOADED = []; "
        "from backdoor_lab.run.exits import ending_well, farewells; "
        "farewells.append(lambda: print('0 done')); "
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); "  # else nohup's
        f"from backdoor_lab.run.pool import Pool, Work; here = Path('{tmp_path}')\n"
        "with ending_well(): "
        "Pool(here / 'cell.py', [{'PLACE': '0'}], here).run([Work(0, ('a', 'sleep'), 'v')])"
    )
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    grid = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **streams)
    log = tmp_path / "log"
    for _ in range(1200):
        time.sleep(0.05)
        if log.exists() and log.read_text().endswith("\n"):
            break
    grid.send_signal(number)
    said = grid.communicate(timeout=60)[0]
    assert grid.returncode == 128 + number
    assert "0 done" in said
    assert f"stopped by {number.name}" in said
    pid = log.read_text().split()[3]
    for _ in range(100):
        if not os.path.exists(f"/proc/{pid}"):
            break
        time.sleep(0.05)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
