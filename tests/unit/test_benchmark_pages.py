"""A page with a table: what computed it, and what was written on it by hand."""

from benchmarks.common import machines, remarks
from tests.records import record

HEAD = "# title\n\nwhat the columns are\n\nMade on a day.\n\n"
TABLE = "| a |\n| - |\n"


def test_remarks_are_what_stands_between_head_and_table(tmp_path):
    page = tmp_path / "page.md"
    assert remarks(page) == []
    page.write_text(f"{HEAD}It says:\n\n- this\n- that\n\n{TABLE}")
    assert remarks(page) == ["It says:", "- this\n- that"]
    page.write_text(HEAD + TABLE)
    assert remarks(page) == []


def test_machines_are_counted_as_the_records_tell_them():
    many = [record(device="a CPU", precision="32-true", versions={"torch": "2"})] * 2
    told = machines([record(versions={"torch": "2"}), *many])
    assert told == (
        "a CPU, 32-true (2 of 3 runs) and a machine that was not noted (1 of 3 runs); torch 2"
    )
