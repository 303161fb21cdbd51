"""The W&B workspace, as far as it can be built without an account; the heat map."""

import json

import pytest
from PIL import Image

from backdoor_lab.reports.heat_map import heat_map
from tests.records import record


def test_the_workspace_has_the_panels_and_reads_what_runs_write():
    pytest.importorskip("wandb_workspaces", reason="needs the extra dashboard: wandb-workspaces")
    from backdoor_lab.tracking.dashboard import workspace

    sent = json.loads(workspace("me", "lab")._to_model().model_dump_json(by_alias=True))
    text = json.dumps(sent)
    kinds = {"Scatter Plot", "Bar Chart", "Parallel Coordinates Plot", "Run Comparer",
             "Media Browser", "Parameter Importance"}  # fmt: skip
    assert all(f'"viewType": "{kind}"' in text for kind in kinds)
    summary = record().summary()
    for model, scores in summary.items():
        for name in scores:
            text = text.replace(f"summary:{model}/{name}", "known")
    assert "summary:" not in text
    for group in record().choices:
        text = text.replace(f"config:choices.value.{group}", "known")
    assert "config:choices" not in text


def test_the_heat_map_grows_with_what_there_is(tmp_path):
    runs = [record(attack=attack, seed=seed) for attack in ("badnets", "sig") for seed in (0, 1)]
    heat_map(tmp_path / "two.png", runs)
    heat_map(tmp_path / "one.png", [*runs[:2], record(attack="lc", purified=None)])
    two, one = (Image.open(tmp_path / f"{name}.png").size for name in ("two", "one"))
    assert two[1] > one[1]
