"""Tables of grids: what stands where, and what a paper prints beside it."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from backdoor_lab.errors import ConfigError
from backdoor_lab.evaluation.scores import Scores
from backdoor_lab.papers import comparison, printed
from backdoor_lab.papers.comparison import belongs
from backdoor_lab.papers.printed import everything
from backdoor_lab.records import Cost
from backdoor_lab.reports.layout import Layout, Place
from backdoor_lab.reports.sheet import Sheet, write
from backdoor_lab.tasks.table import refuse_keys, without
from tests.records import record


def place(acc=0.9, asr=0.1, victim="v0", **axes):
    found = record(victim_name=victim)
    found = replace(found, purified=Scores(acc, asr, der=0.5, acc_target=0.8, acc_worst=0.7))
    return Place(axes, "python run.py", found)


def lines(layout, *places):
    sheet = layout.sheet("title", places)
    return [list(sheet.heads), *map(list, sheet.rows)]


def test_rows_columns_and_victims():
    layout = Layout(["defense"], ["attack"], ["acc", "asr"])
    found = lines(
        layout,
        place(attack="badnets", defense="ft"),
        place(attack="badnets", defense="anp", acc=0.8),
        place(attack="sig", defense="ft", asr=0.2, victim="v1"),
    )
    assert found == [
        ["defense", "badnets ACC", "badnets ASR", "sig ACC", "sig ASR"],
        ["none", "91.4", "94.4", "91.4", "94.4"],
        ["ft", "90.0", "10.0", "90.0", "20.0"],
        ["anp", "80.0", "10.0", "–", "–"],
    ]


def test_what_neither_rows_nor_columns_tell_apart_is_averaged_and_victims_count_once():
    runs = [
        place(0.9, attack="sig", defense="ft", seed="0", victim="v0"),
        place(0.8, attack="sig", defense="ft", seed="1", victim="v1"),
        place(0.7, attack="sig", defense="ft", seed="2", victim="v1"),
    ]
    layout = Layout(["defense"], ["attack"], ["acc"])
    assert lines(layout, *runs)[1:] == [["none", "91.4 ± 0.0"], ["ft", "80.0 ± 10.0"]]
    for statistic, told in {"mean": "80.0", "median": "80.0", "worst": "70.0"}.items():
        assert lines(replace(layout, statistic=statistic), *runs)[2] == ["ft", told]


def test_what_is_no_seed_gets_rows_of_its_own_unless_it_is_averaged_over_in_so_many_words():
    runs = [
        place(0.9, attack="sig", defense="ft", aux="seen", seed="0"),
        place(0.8, attack="sig", defense="ft", aux="external", seed="0"),
        place(0.7, attack="sig", defense="clp", seed="0"),
    ]
    layout = Layout(["defense"], ["attack"], ["acc"])
    assert lines(layout, *runs) == [
        ["defense", "aux", "sig ACC"],
        ["none", "–", "91.4"],
        ["ft", "seen", "90.0"],
        ["ft", "external", "80.0"],
        ["clp", "–", "70.0"],
    ]
    together = lines(replace(layout, over=["seed", "aux"]), *runs)
    assert together[2:] == [["ft", "85.0 ± 7.1"], ["clp", "70.0 (1)"]]


def test_fewer_runs_than_other_cells_have_are_counted():
    runs = [place(defense="ft", seed="0"), place(defense="ft", seed="1")]
    gap = Place({"defense": "anp", "seed": "1"}, "python run.py")
    sheet = Layout(["defense"], [], ["acc", "ra"]).sheet("t", [*runs, place(defense="anp"), gap])
    assert [list(row) for row in sheet.rows[1:]] == [
        ["ft", "90.0 ± 0.0", "–"], ["anp", "90.0 (1)", "–"],
    ]  # fmt: skip
    assert "3 of 4 runs" in sheet.notes[0]
    assert "2 runs a cell" in sheet.notes[0]
    assert Layout(["defense"], [], ["acc"]).sheet("t", [gap]).notes == ["0 of 1 runs."]


def test_the_worst_of_an_asr_is_its_highest():
    layout = Layout(["defense"], [], ["asr"], "worst")
    runs = (place(asr=rate, defense="ft") for rate in (0.1, 0.4, 0.2))
    assert lines(layout, *runs)[2] == ["ft", "40.0"]


def test_what_does_not_shape_a_victim_gives_it_no_row_of_its_own():
    layout = Layout(["attack", "aux.ratio", "defense"], [], ["acc"])
    found = lines(
        layout,
        place(attack="sig", defense="ft", **{"aux.ratio": "0.1"}),
        place(attack="sig", defense="ft", **{"aux.ratio": "0.05"}),
    )
    assert [line[:3] for line in found[1:]] == [
        ["sig", "–", "none"], ["sig", "0.1", "ft"], ["sig", "0.05", "ft"],
    ]  # fmt: skip


def test_only_what_is_asked_for_is_kept_and_a_key_that_nothing_sweeps_is_no_row():
    layout = Layout(["model", "defense"], ["attack"], ["acc"], where={"attack": ["sig"]})
    found = lines(layout, place(attack="sig", defense="ft"), place(attack="lc", defense="ft"))
    assert found[0] == ["defense", "sig ACC"]


def test_costs_and_seconds():
    found = record(costs={"victim": Cost(4_000_000, 1, 2.0), "purified": Cost(1_000_000, 1, 1.5)})
    layout = Layout(["defense"], [], ["parameters", "latency_ms", "seconds"])
    cells = lines(layout, Place({"defense": "cc"}, "", found))
    assert cells[1:] == [["none", "4.0", "2.0", "–"], ["cc", "1.0", "1.5", "12.3"]]


def test_holes_name_their_command_and_why():
    gap = Place({"defense": "ft"}, "python run.py defense=ft", None, "out of memory")
    sheet = Layout(["defense"], [], ["acc"]).sheet("title", [gap])
    assert sheet.rows[-1] == ["ft", "–"]
    assert list(sheet.commands) == ["python run.py defense=ft  # out of memory"]
    assert "0 of 1 runs" in sheet.notes[0]


@pytest.mark.parametrize("wrong", [{"scores": []}, {"scores": ["f1"]}, {"statistic": "best"}])
def test_a_layout_refuses_what_it_does_not_know(wrong):
    with pytest.raises(ValidationError):
        Layout(**{"rows": ["defense"], "columns": [], "scores": ["acc"]} | wrong)


def test_a_sheet_in_three_formats(tmp_path):
    sheet = Sheet("A & B", ["x_1", "y"], [["<b>", "1 ± 2"]], ["50% of it"], ["run a"])
    files = {file.suffix: file.read_text() for file in write([sheet, sheet], tmp_path / "a" / "t")}
    assert files[".md"].count("| <b>") == 2
    assert files[".md"].count("run a") == 2
    assert r"x\_1" in files[".tex"]
    assert r"\toprule" in files[".tex"]
    assert "&lt;b&gt;" in files[".html"]
    assert "<b>" not in files[".html"]
    assert "A &amp; B" in files[".html"]


def test_the_printed_numbers_are_all_there():
    assert len(everything()) == 2102
    assert len({(row.paper, row.table) for row in everything()}) == 22
    assert not any(row.attack == "mean" for row in printed("unibp", "1"))
    found = {(row.attack, row.metric): row.value for row in printed("gic", "3") if row.variant}
    assert found["badnets", "acc"] == "86.99"
    (vgg,) = {row.keys()["model"] for row in printed("cc", "5") if row.model == "vgg19"}
    assert vgg == "vgg19_bn"


def beside(number, *places):
    paper, _, table = number.partition(" ")
    sheet = comparison("title", printed(paper, table), places, ["a note"])
    return [dict(zip(sheet.heads, row, strict=True)) for row in sheet.rows], sheet.notes


def test_the_paper_beside_what_came_of_it():
    axes = {"attack": "badnets", "defense": "unibp", "aux": "seen", "aux.ratio": "0.1"}
    rows, notes = beside("unibp 1", place(0.9, **axes), place(0.8, **axes))
    (found,) = [
        row
        for row in rows
        if (row["attack"], row["defense"], row["aux ratio"]) == ("badnets", "unibp", "0.1")
    ]
    assert found["ACC paper"] == "90.67"
    assert found["ACC here"] == "85.0 ± 7.1"
    assert found["ACC difference"] == "-5.7"
    assert found["n"] == "2"
    assert notes[0] == "a note"
    number = found["note"].strip("[]")
    assert any(note.startswith(f"[{number}]") and "its own formula" in note for note in notes)
    others = [row for row in rows if row is not found and row["ACC here"] != "–"]
    assert [(row["attack"], row["defense"]) for row in others] == [("badnets", "none")] * 2


def test_what_sets_a_variant_apart_counts_for_it_alone():
    axes = {"attack": "badnets", "defense": "bcu", "aux": "reserved"}
    more = {**axes, "aux.size": "5000"}
    rows, _ = beside("bcu 1", place(0.9, **axes), place(0.8, **more))
    found = {row["variant"]: row for row in rows if row["ACC here"] != "–"}
    bcu = [row for row in found.values() if row["defense"] == "bcu"]
    assert [(row["ACC here"], row["n"]) for row in bcu] == [("90.0", "1"), ("80.0", "1")]


def test_a_printed_row_of_no_cell_says_so():
    rows, _ = beside("cc 2", place(attack="badnets", defense="cc", **{"defense.compression": "2"}))
    said = {row["note"] for row in rows if row["defense"] == "clp"}
    assert all("not of this grid" in note for note in said)


def test_a_stand_in_counts_for_all_that_it_stands_for():
    axes = {"model": "preact_resnet18_narrow", "attack": "badnets", "defense": "ft"}
    rows, _ = beside("unibp 4", without(place(0.9, **axes), {"model": None}))
    assert [row["ACC here"] for row in rows if row["defense"] == "ft"] == ["90.0"] * 4
    rows, _ = beside("unibp 4", place(0.9, **axes))
    assert {row["ACC here"] for row in rows} == {"–"}


@pytest.mark.parametrize(
    ("key", "value", "meant"),
    [("aux.ratio", "0.10", True), ("aux.ratio", "0.05", False), ("attack", "sig", False)],
)
def test_cells_are_told_by_value(key, value, meant):
    (row, *_) = [one for one in printed("unibp", "1") if one.defense == "ft"]
    assert row.aux_ratio == "0.1"
    axes = {"attack": row.attack, "defense": "ft", "aux": "seen", "aux.ratio": "0.1", "seed": "3"}
    assert belongs(axes | {key: value}, row) is meant


@pytest.mark.parametrize(("rows", "where"), [(["foo"], {}), (["aux.raito"], {}), ([], {"foo": []})])
def test_rows_that_are_no_keys_are_refused(rows, where):
    with pytest.raises(ConfigError, match=r"table\.\w+ names (foo|aux\.raito), which is no key"):
        refuse_keys(Layout(rows, ["attack"], ["acc"], where=where))
    refuse_keys(Layout(["defense", "paths.external", "seed"], ["attack.inner.s"], ["acc"]))
