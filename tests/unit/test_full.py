"""A paper's table within some minutes: which commands are run, exit codes, the time limit."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from backdoor_lab.config import ROOT
from backdoor_lab.run.exits import SIGNALS
from benchmarks import full

STUB = """import json, os, signal, sys, time
with open("said", "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
exec(open("grid" if sys.argv[1] == "-m" else "table").read())
"""
SLEEPS = "open('asleep', 'w').write(str(os.getpid())); time.sleep(60)"
PRESET = ["experiment=unibp_table1", "size=demo"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """In the place of the clone: a run.py that notes what it is asked, and does as it is told."""
    monkeypatch.setattr(full, "ROOT", tmp_path)
    (tmp_path / "run.py").write_text(STUB)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield tmp_path
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def ended(folder, monkeypatch):
    """The exit code of the command, and the commands that it ran."""

    def end(*arguments, grid="", table=""):
        (folder / "grid").write_text(grid)
        (folder / "table").write_text(table)
        words = ["full", "--table", "unibp_table1", "--size", "demo", *arguments]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as caught:
            full.main()
        said = folder / "said"
        lines = said.read_text().splitlines() if said.exists() else []
        return caught.value.code, [json.loads(line) for line in lines]

    return end


def test_a_grid_then_its_table_which_has_no_lists(ended):
    code, (grid, table) = ended("attack=badnets,wanet", "--minutes", "1", "aux.ratio=0.1")
    narrow = ["attack=badnets,wanet", "aux.ratio=0.1"]
    assert code == 0
    assert grid == ["-m", *PRESET, "pictures=false", "keep_model=false", *narrow]
    assert table == ["task=table", *PRESET, "aux.ratio=0.1"]


@pytest.mark.parametrize(
    ("grid", "table", "code"),
    [
        ("sys.exit(1)", "", 1),
        ("", "sys.exit(1)", 1),
        ("sys.exit(3)", "sys.exit(1)", 3),
        ("os.kill(os.getpid(), signal.SIGKILL)", "", 137),
    ],
)
def test_the_worse_exit_code_of_both(ended, grid, table, code):
    found, commands = ended(grid=grid, table=table)
    assert found == code
    assert len(commands) == 2  # the table shows what there is, with holes


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--table", "unibp_table9"], "--table unibp_table9 is no table's preset; allowed: "),
        (["--table", "demo"], "--table demo is no table's preset"),  # one run, and no grid
        (["--size", "huge"], "size=huge is no size; allowed: demo, paper, small"),
        (["--minutes", "0"], "--minutes 0; allowed: more than 0"),
        (["--minutes", "nan"], "--minutes nan; allowed"),
        (["attack.nonsense=3"], "attack.nonsense is a key of no attack"),
        (["attack=[wanet,badnets]"], "attack=[wanet,badnets] is a list"),
        (["badnets"], "badnets is no override"),
    ],
)
def test_what_cannot_work_is_one_sentence_before_anything_runs(ended, arguments, sentence):
    words, commands = ended(*arguments)  # Python prints them, and ends with 1
    assert words.startswith(sentence)
    assert "\n" not in words
    assert not commands


def test_an_option_that_there_is_not(ended, capsys):
    assert ended("--sise", "demo") == (2, [])
    assert "unrecognized arguments: --sise" in capsys.readouterr().err


def test_when_the_minutes_are_over_the_table_is_shown_with_its_holes(ended, folder, capfd):
    code, commands = ended("--minutes", "0.01", grid="time.sleep(60)")
    assert code == full.OVER
    assert commands[-1] == ["task=table", *PRESET]
    assert "0.01 minutes are over: the same command goes on\n" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ("lambda *_: sys.exit(143)", full.OVER),
        ("lambda *_: sys.exit(1)", 1),  # it came to its end meanwhile
        ("signal.SIG_IGN", full.OVER),  # and is killed
    ],
)
def test_a_grid_is_asked_to_end_and_then_killed(ended, folder, monkeypatch, asked, code):
    class Late(subprocess.Popen):
        def wait(self, timeout=None):
            if timeout != 60:  # of the grid; the table and a killed process end by themselves
                return super().wait(timeout)
            while not alive(folder):
                time.sleep(0.01)
            raise subprocess.TimeoutExpired(self.args, timeout)

    monkeypatch.setattr(subprocess, "Popen", Late)
    monkeypatch.setattr(full, "GRACE", 2)
    grid = f"signal.signal(signal.SIGTERM, {asked})\n{SLEEPS}"
    assert ended("--minutes", "1", grid=grid)[0] == code
    assert not alive(folder)


@pytest.mark.parametrize("to_all", [False, True])
def test_a_signal_ends_the_grid_too_and_no_table_is_made(folder, to_all):
    (folder / "grid").write_text(SLEEPS)
    changed = f"full.ROOT, full.OWN_END = {str(folder)!r}, 0.2"
    words = ["--table", "unibp_table1"]
    run = subprocess.Popen(
        [sys.executable, "-c", f"from benchmarks import full; {changed}; full.main()", *words],
        cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while run.poll() is None and not alive(folder):
        time.sleep(0.05)
    (os.killpg if to_all else os.kill)(run.pid, signal.SIGTERM)
    text = run.communicate(timeout=30)[1]
    assert run.returncode == 143, text
    assert "stopped by SIGTERM: the same command goes on" in text
    assert not alive(folder)
    assert len((folder / "said").read_text().splitlines()) == 1


def alive(folder):
    """Whether the grid that sleeps is there."""
    file = folder / "asleep"
    if not file.exists() or not file.read_text():
        return False
    try:
        os.kill(int(file.read_text()), 0)
    except ProcessLookupError:
        return False
    return True
