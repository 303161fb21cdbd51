"""A table on its way to paper: Markdown, LaTeX, HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tabulate import tabulate

FORMATS = {".md": "github", ".tex": "latex_booktabs", ".html": "html"}


@dataclass(frozen=True)
class Sheet:
    """A table and what is said around it.

    Attributes:
        title: one line.
        heads: of the columns.
        rows: cells as text, one for each head.
        notes: sentences below it.
        commands: what makes the cells that are missing.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    commands: Sequence[str] = field(default=())

    def table(self, suffix: str) -> str:
        """The table alone; cells are text, and stay as they are."""
        return tabulate(self.rows, self.heads, tablefmt=FORMATS[suffix], disable_numparse=True)

    def markdown(self) -> str:
        """With its title, notes and commands."""
        parts = [f"## {self.title}", self.table(".md"), *(f"- {note}" for note in self.notes)]
        if self.commands:
            parts += ["Missing cells:", "\n".join(["```", *self.commands, "```"])]
        return "\n\n".join(parts)

    def latex(self) -> str:
        """The table alone, below its title as a comment."""
        return f"% {self.title}\n{self.table('.tex')}"

    def html(self) -> str:
        """A section that any page may hold."""
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        missing = html.escape("\n".join(self.commands))
        return "\n".join(
            [
                f"<section><h2>{html.escape(self.title)}</h2>",
                self.table(".html"),
                f"<ul>{notes}</ul>" if notes else "",
                f"<p>Missing cells:</p><pre>{missing}</pre>" if missing else "",
                "</section>",
            ]
        )


def write(sheets: Sequence[Sheet], stem: Path) -> list[Path]:
    """All sheets into `<stem>.md`, `.tex` and `.html`."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    style = (
        "<!doctype html><meta charset=utf-8><meta name=viewport content=width=device-width>"
        "<style>:root{color-scheme:light dark}body{font:1rem/1.5 system-ui;margin:2rem}"
        "section{overflow-x:auto}td,th{padding:.2rem .6rem;text-align:left}</style>"
    )
    texts = {
        ".md": "\n\n".join(sheet.markdown() for sheet in sheets),
        ".tex": "\n\n".join(sheet.latex() for sheet in sheets),
        ".html": "\n".join([style, *(sheet.html() for sheet in sheets)]),
    }
    files = []
    for suffix, text in texts.items():
        files.append(stem.with_name(stem.name + suffix))
        files[-1].write_text(text + "\n")
    return files
