"""A W&B workspace over the runs of this project: `make dashboard`.

python -m backdoor_lab.tracking.dashboard --entity me --project backdoor_lab

Needs `pip install '.[dashboard]'` and an account; `--print` shows what would be sent, and needs
none. W&B has no panel for a heat map: those of the results below `--outputs` are sent as images,
each of runs that differ in attack, defense and seeds alone.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from rich.pretty import pretty_repr

from backdoor_lab.config.places import ROOT
from backdoor_lab.reports.heat_map import Cells, cells_of, heat_map
from backdoor_lab.reports.page.found import read_runs

log = logging.getLogger(__name__)
CHOICES = ("attack", "defense", "aux", "calibration")
SCORES = ("acc", "asr", "acc_target", "der")
MAP = "heat map"
MEDIA = ("trigger", "features", "scores")


def workspace(entity: str, project: str, maps: int = 1, name: str = "Purification") -> ws.Workspace:
    """Panels that compare purifications, with so many heat maps; nothing is sent."""
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[scores(), costs(), pictures(maps)],
    )


def send_heat_maps(entity: str, project: str, maps: Mapping[str, Cells]) -> None:
    """The maps, each an image with its title, as a run of their own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        wandb.init(entity=entity, project=project, job_type="report", name=MAP) as run,
    ):
        for key, (title, cells) in zip(map_keys(len(maps)), maps.items(), strict=True):
            file = Path(folder) / f"{key}.png"
            heat_map(file, title, cells)
            run.log({key: wandb.Image(str(file), caption=title)})


def map_keys(count: int) -> list[str]:
    """What W&B calls each map: images under one name are shown in one size."""
    return [f"{MAP} {number}" for number in range(1, count + 1)]


def scores() -> ws.Section:
    """ACC against ASR, before and after; DER by defense and by attack; all choices at once."""
    panels = [
        scatter("Purified: ACC against ASR", "purified/asr", "purified/acc", "purified/acc_target"),
        scatter("Victims: ACC against ASR", "victim/asr", "victim/acc", "victim/acc_target"),
        bars("DER by defense", "purified/der", "defense"),
        bars("DER by attack", "purified/der", "attack"),
        bars("ASR by defense", "purified/asr", "defense"),
        bars("Accuracy on the target class, by defense", "purified/acc_target", "defense"),
        wr.ParallelCoordinatesPlot(
            title="Choices and scores",
            columns=[
                *(column(wr.Config(f"choices.{group}"), group) for group in CHOICES),
                *(column(wr.SummaryMetric(f"purified/{one}"), one) for one in SCORES),
            ],
        ),
        wr.ParameterImportancePlot(with_respect_to="purified/der"),
    ]
    return ws.Section(name="Scores", panels=panels, is_open=True)


def costs() -> ws.Section:
    """Seconds against DER, and two runs side by side."""
    panels = [
        scatter("DER against seconds", "seconds/purify", "purified/der", None),
        bars("Seconds by defense", "seconds/purify", "defense"),
        wr.RunComparer(diff_only="split"),
    ]
    return ws.Section(name="Costs and settings", panels=panels)


def pictures(maps: int) -> ws.Section:
    """Heat maps; triggers, features, scores of each run."""
    keys = [*map_keys(maps), *MEDIA]
    return ws.Section(name="Pictures", panels=[wr.MediaBrowser(media_keys=keys, num_columns=3)])


def scatter(title: str, x: str, y: str, colour: str | None) -> wr.ScatterPlot:
    """A point a run."""
    z = wr.SummaryMetric(colour) if colour else None
    return wr.ScatterPlot(title=title, x=wr.SummaryMetric(x), y=wr.SummaryMetric(y), z=z)


def bars(title: str, metric: str, group: str) -> wr.BarPlot:
    """Mean and deviation over all runs of each choice of a group; a filter leaves the seeds."""
    return wr.BarPlot(
        title=title,
        metrics=[wr.SummaryMetric(metric)],
        groupby=wr.Config(f"choices.{group}"),
        groupby_aggfunc="mean",
        groupby_rangefunc="stddev",
    )


def column(metric: wr.Config | wr.SummaryMetric, name: str) -> wr.ParallelCoordinatesPlotColumn:
    """An axis of the parallel coordinates."""
    return wr.ParallelCoordinatesPlotColumn(metric=metric, display_name=name)


def main() -> None:
    """Save the workspace, or show it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entity", required=True, help="user or team")
    parser.add_argument("--project", default="backdoor_lab")
    parser.add_argument("--outputs", type=Path, default=ROOT / "outputs")
    parser.add_argument("--print", action="store_true", help="show it, send nothing")
    chosen = parser.parse_args()
    maps = cells_of(read_runs(chosen.outputs).records.values())
    made = workspace(chosen.entity, chosen.project, len(maps))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if chosen.print:
        log.info(pretty_repr(made))
    else:
        send_heat_maps(chosen.entity, chosen.project, maps)
        log.info("Saved: %s", made.save().url)


if __name__ == "__main__":
    main()
