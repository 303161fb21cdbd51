"""A page with a table: what computed it, and what was written on it by hand."""

from benchmarks.common import machines, remarks, write_page
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


def test_a_page_that_is_made_again_keeps_its_remarks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"{HEAD}It says: this\n\n{TABLE}")
    write_page(page, "another title", "columns", "`a command`", "| b |\n| - |", "the end")
    first, about, made, *rest = page.read_text().split("\n\n")
    assert (first, about) == ("# another title", "columns")
    assert made.startswith("Made on 2")
    assert made.endswith(" by `a command`.")
    assert rest == ["It says: this", "| b |\n| - |", "the end\n"]


def test_machines_are_counted_as_the_records_tell_them():
    many = [record(device="a CPU", precision="32-true", versions={"torch": "2"})] * 2
    told = machines([record(versions={"torch": "2"}), *many])
    assert told == (
        "a CPU, 32-true (2 of 3 runs) and a machine that was not noted (1 of 3 runs); torch 2"
    )
