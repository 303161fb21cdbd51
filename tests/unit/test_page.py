"""What the page is made from: which runs count, what tells them apart, and what is written."""

import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from backdoor_lab.config import ROOT
from backdoor_lab.evaluation.scores import Scores
from backdoor_lab.records import Spent
from backdoor_lab.reports.page import Trouble, read_runs, write_page
from backdoor_lab.reports.page.data import MEASURES
from backdoor_lab.reports.page.facets import UNKNOWN, facets_of
from backdoor_lab.reports.page.run_page import lines
from backdoor_lab.reports.page.settings import natural, settings, traits
from backdoor_lab.run.cells import Cell
from backdoor_lab.run.ledger import Ledger
from backdoor_lab.tasks.report import Report
from tests.pages import leave
from tests.records import CHOICES, record

HOSTILE = "<script>document.title='broken'</script><img src=x onerror=alert(1)>\"'&"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["defense.k=0.10"], {"defense.k": "0.1"}),
        (["+attack.x=1e-1", "defense.only=[4]"], {"attack.x": "0.1", "defense.only": "[4]"}),
        (["attack=wanet", "defense@then=ft", "seed=3", "defender_seed=1"], {}),
        (["paths.outputs=/a", "force=true", "logger=csv", "trainer.threads=2", "-m"], {}),
        (["views=true", "pictures=false", "keep_model=false"], {}),
        (["paths.external=/b", "trainer.precision=32"], {
            "paths.external": "/b", "trainer.precision": "32",
        }),
    ],
)  # fmt: skip
def test_overrides_that_decide_a_number_tell_runs_apart(words, told):
    assert settings(words, CHOICES) == told


def test_a_command_that_no_shell_reads_has_words_all_the_same():
    assert record(command="python it's=1 a='b c'").words == ["python", "it's=1", "a='b", "c'"]
    assert record(command="python a='b c'").words == ["python", "a=b c"]


def test_numbers_sort_as_numbers():
    assert sorted(["10", "9", "0.5", "x10", "x9"], key=natural) == ["0.5", "9", "10", "x9", "x10"]


def test_of_one_command_the_newest_result_counts(tmp_path):
    old = leave(tmp_path, asr=0.5)
    os.utime(old / "result.json", (1, 1))
    leave(tmp_path, asr=0.2, mark="-with-other-defaults")
    leave(tmp_path, "defense.k=2", asr=0.1)
    found = read_runs(tmp_path)
    assert [one.purified.asr for one in found.records.values()] == [0.2, 0.1]
    assert found.older == 1


def test_a_failed_try_takes_the_place_of_its_result(tmp_path):
    folder = leave(tmp_path)
    record(error="ValueError: why").write(folder)
    found = read_runs(tmp_path)
    assert not found.records
    assert [one.why for one in found.failures] == ["ValueError: why"]
    assert found.unread == 0


def test_files_that_cannot_be_read_are_counted(tmp_path):
    folder = leave(tmp_path)
    (folder / "result.json").write_text('{"schema": 1}')
    assert read_runs(tmp_path).unread == 1


def test_facets_hold_choices_settings_that_vary_and_seeds():
    runs = [
        traits(record(command="python run.py defense.k=2 aux.size=9")),
        traits(record(command="python run.py defense.k=10 aux.size=9", seed=1)),
        traits(record(command="python run.py aux.size=9", defender_seed=1)),
    ]
    facets = {one.name: one for one in facets_of(runs, [], frozenset({"task", *CHOICES}))}
    assert facets["defense.k"].values == ("default", "2", "10")
    assert "aux.size" not in facets
    assert facets["seed"].values == ("0", "1")
    assert facets["defender_seed"].values == ("–", "1")
    assert facets["attack"].kind == "choice"
    assert facets["defense.k"].code(runs[2]) == 0
    assert facets["defense.k"].code({}, whole=False) == UNKNOWN


def test_a_cell_that_never_ran_is_known_by_its_overrides():
    words = ("attack=sbl", "attack@attack.inner=blended", "defense=clp", "force=true", "seed=1")
    trouble = Trouble.of_cell("missing", None, words, "python run.py")
    assert trouble.traits == {"defense": "clp", "seed": "1"}  # the attack is sbl-blended


def test_nested_details_are_lines():
    told = list(lines({"aux": {"size": 9, "per_class": [1, 2], "none": None}, "note": "ü"}))
    assert told == [("aux.size", "9"), ("aux.per_class", "[1, 2]"), ("note", "ü")]


@pytest.fixture
def page(tmp_path):
    def write():
        found = read_runs(tmp_path)
        return write_page(tmp_path, found, found.failures)

    return write


def data_of(index):
    text = (index.parent / "page" / "data.js").read_text()
    return json.loads(text.removeprefix("const LAB = ").removesuffix(";\n"))


class Links(HTMLParser):
    """What a page points to, and the tags that it holds."""

    def __init__(self, file):
        super().__init__()
        self.found, self.tags = [], []
        self.feed(file.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.found += [value for key, value in attrs if key in ("href", "src")]


def test_every_link_leads_to_a_file_beside_the_page(page, tmp_path):
    folder = leave(tmp_path, "aux.size=100 %#?", attack="wa net")
    (folder / "scores.png").write_bytes(b"")
    (folder / "a new view.png").write_bytes(b"")
    table = tmp_path / "reports" / "tables" / "a #1.html"
    table.parent.mkdir(parents=True)
    table.touch()
    index = page()
    assert "tables/a%20%231.html" in Links(index).found
    (run,) = (index.parent / "runs").rglob("*.html")
    assert index.parent / unquote(data_of(index)["runs"][0]["page"]) == run
    for file in (index, run):
        for link in Links(file).found:
            if link.startswith(("#", "data:")):
                continue
            assert "://" not in link
            assert (file.parent / unquote(link)).exists(), link
    assert "a new view" in run.read_text()


def test_the_data_are_what_the_records_say(page, tmp_path):
    leave(tmp_path, seed=0, asr=0.25)
    leave(tmp_path, seed=1, purified=Scores(float("nan")), spent=Spent())
    data = data_of(page())
    assert data["measures"] == list(MEASURES)
    first, second = (dict(zip(MEASURES, run["values"], strict=True)) for run in data["runs"])
    assert (first["victim.acc"], first["purified.asr"], first["seconds"]) == (0.9144, 0.25, 12.34)
    assert second["purified.acc"] is second["memory"] is second["purified.der"] is None


def test_what_records_say_is_never_markup(page, tmp_path):
    folder = leave(
        tmp_path, f"aux.size={HOSTILE.replace(' ', '_')}", attack=HOSTILE, code=HOSTILE,
        details={HOSTILE: {HOSTILE: HOSTILE}}, versions={HOSTILE: HOSTILE}, victim_name=HOSTILE,
    )  # fmt: skip
    leave(tmp_path, attack="wanet")
    record(error=HOSTILE, command=HOSTILE).write(folder.with_name("failed"))
    index = page()
    for file in (index, *(index.parent / "runs").rglob("*.html")):
        assert "<script>" not in file.read_text()
        assert "img" not in Links(file).tags


def test_pages_of_runs_that_are_no_more_go(page, tmp_path):
    folder = leave(tmp_path)
    index = page()
    (folder / "result.json").unlink()
    page()
    assert not list((index.parent / "runs").rglob("*.html"))
    assert "0 runs" in index.read_text()


def test_failed_and_missing_cells_are_told_with_their_commands(tmp_path, capsys):
    failed = leave(tmp_path)
    record(error="ValueError: why", command="python run.py attack=sig").write(failed)
    cells = [
        Cell(("attack=sig",), failed, "code", "v"),
        Cell(("attack=lf", "seed=2"), tmp_path / "runs" / "none", "code", "v"),
        Cell(("seed=5",), leave(tmp_path, seed=5), "code", "v"),
    ]
    file = tmp_path / "grids" / "a.json"
    Ledger(file, "python run.py -m", "2026-01-01", tuple(cells)).write()
    Report().look(tmp_path)
    told = "".join(capsys.readouterr().out.split())
    assert "(1run,2withoutaresult)" in told
    troubles = data_of(tmp_path / "reports" / "index.html")["troubles"]
    assert [(one["state"], one["why"], one["command"]) for one in troubles] == [
        ("failed", "ValueError: why", "python run.py attack=sig"),
        ("missing", "", "python run.py attack=lf seed=2"),
    ]


def test_the_task_runs_without_torch(tmp_path):
    leave(tmp_path)
    code = (
        "import sys; from pathlib import Path; from backdoor_lab.tasks.report import Report; "
        f"Report().look(Path({str(tmp_path)!r})); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "reports" / "index.html").exists()


def test_the_task_is_composed_and_only_looks(config):
    cfg = config("task=report")
    assert cfg.task.facts.looks
    assert cfg.task["_target_"] == "backdoor_lab.tasks.report.Report"
