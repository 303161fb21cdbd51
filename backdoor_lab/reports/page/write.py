"""Writes the page: what it needs beside it is copied once, and each run gets a page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.resources import as_file, files
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from backdoor_lab.records import Record
from backdoor_lab.reports.page.data import as_script
from backdoor_lab.reports.page.facets import Facet, facets_of
from backdoor_lab.reports.page.found import Found, Trouble
from backdoor_lab.reports.page.run_page import context_of
from backdoor_lab.reports.page.settings import traits

PACKAGE = "backdoor_lab.reports.page"
ASSETS, RUNS, TABLES = "page", "runs", "tables"  # below reports
SCRIPTS = (
    *("words", "model", "table", "columns", "heat", "plot"),
    *("figures", "parallel", "sweeps", "main"),
)  # in the order in which they build on each other
STYLES = ("page", "filters", "tables", "run")


def write_page(outputs: Path, found: Found, troubles: Sequence[Trouble]) -> Path:
    """Write `outputs/reports/index.html` with all that it needs.

    Raises:
        OSError: the disk does not take it.
    """
    reports = outputs / "reports"
    pages = {folder: page_of(folder, outputs) for folder in found.records}
    facets = all_facets(found, troubles)
    copy_assets(reports / ASSETS)
    script = as_script(found.records, pages, troubles, facets)
    (reports / ASSETS / "data.js").write_text(script, encoding="utf-8")
    templates = environment()
    write_runs(templates, reports, found.records, pages)
    text = templates.get_template("index.html").render(
        home=".",
        found=found,
        facets=[(index, facet) for index, facet in enumerate(facets) if len(facet.values) > 1],
        shared=[facet for facet in facets if len(facet.values) == 1],
        tables={file.stem: f"{TABLES}/{quote(file.name)}" for file in tables_in(reports)},
        now=datetime.now().strftime("%Y-%m-%d %H:%M"),
    )
    index = reports / "index.html"
    index.write_text(text, encoding="utf-8")
    return index


def all_facets(found: Found, troubles: Sequence[Trouble]) -> list[Facet]:
    """Facets of results and of what came to nothing."""
    whole = [traits(record) for record in found.records.values()]
    whole += [one.traits for one in troubles if one.whole]
    parts = [one.traits for one in troubles if not one.whole]
    groups = {name for record in found.records.values() for name in record.choices}
    return facets_of(whole, parts, frozenset({"task", *groups}))


def tables_in(reports: Path) -> list[Path]:
    """What task=table has written."""
    return sorted((reports / TABLES).glob("*.html"))


def page_of(folder: Path, outputs: Path) -> str:
    """Where a run's page lies below `reports`, as a link; like its folder below `outputs`."""
    return quote(f"{folder.relative_to(outputs).as_posix()}.html")


def write_runs(
    templates: Environment,
    reports: Path,
    records: Mapping[Path, Record],
    pages: Mapping[Path, str],
) -> None:
    """A page for each run; pages of runs that are no more go."""
    shutil.rmtree(reports / RUNS, ignore_errors=True)
    template = templates.get_template("run.html")
    for folder, record in records.items():
        page = reports / f"{folder.relative_to(reports.parent)}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        home = quote(os.path.relpath(reports, page.parent))
        text = template.render(home=home, **context_of(record, folder, page))
        page.write_text(text, encoding="utf-8")


def copy_assets(folder: Path) -> None:
    """Styles, scripts and Plotly, afresh."""
    shutil.rmtree(folder, ignore_errors=True)
    with as_file(files(PACKAGE) / "assets") as source:
        shutil.copytree(source, folder)
    (folder / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")


def environment() -> Environment:
    """Templates; whatever a record says is escaped, and a name that is not there is an error."""
    made = Environment(
        loader=PackageLoader(PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"assets": ASSETS, "scripts": SCRIPTS, "styles": STYLES}
    return made
