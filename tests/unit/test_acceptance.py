"""The page of the table of defenses: what was written on it by hand outlives the next table."""

from benchmarks.acceptance import remarks

HEAD = "# title\n\nwhat the columns are\n\nMade on a day.\n\n"
TABLE = "| a |\n| - |\n"


def test_remarks_are_what_stands_between_head_and_table(tmp_path):
    page = tmp_path / "page.md"
    assert remarks(page) == []
    page.write_text(f"{HEAD}It says:\n\n- this\n- that\n\n{TABLE}")
    assert remarks(page) == ["It says:", "- this\n- that"]
    page.write_text(HEAD + TABLE)
    assert remarks(page) == []
