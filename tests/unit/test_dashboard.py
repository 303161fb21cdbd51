"""The W&B workspace, as far as it can be built without an account; the heat maps."""

import json
from contextlib import nullcontext
from dataclasses import replace
from unittest.mock import MagicMock

import pytest
from PIL import Image

from backdoor_lab.reports.heat_map import cells_of, heat_map
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


def test_a_heat_map_mixes_runs_of_other_attacks_defenses_and_seeds_alone():
    plain = record()
    others = [
        plain.choices | {key: value}
        for key, value in (("dataset", "mnist"), ("model", "vgg19"), ("protocol", "bb"))
    ]
    typed = "python run.py attack.poison_rate=0.05 dataset.padding=0"
    runs = [
        *(record(attack=attack, seed=seed) for attack in ("badnets", "sig") for seed in (0, 1)),
        *(replace(plain, choices=choices) for choices in others),
        record(command=typed), record(seed=7, command=f"{typed} seed=7"),
    ]  # fmt: skip
    maps = cells_of(runs)
    assert len(maps) == 1 + len(others) + 1
    assert sum(len(values) for cells in maps.values() for values in cells.values()) == len(runs)
    (title,) = (title for title in maps if "poison_rate" in title)
    assert title == (
        "task=purify dataset=digits model=preact_resnet18 aux=external calibration=gic "
        "protocol=none victim=trained attack.poison_rate=0.05 dataset.padding=0"
    )
    (cells,) = (cells for cells in maps.values() if len(cells) > 1)
    assert {key: len(values) for key, values in cells.items()} == {
        ("badnets", "unibp"): 2, ("sig", "unibp"): 2
    }  # fmt: skip


def test_every_heat_map_is_sent(tmp_path, monkeypatch):
    pytest.importorskip("wandb_workspaces", reason="needs the extra dashboard: wandb-workspaces")
    from backdoor_lab.tracking import dashboard

    sent = MagicMock()
    monkeypatch.setattr(dashboard.wandb, "init", lambda **_: nullcontext(sent))
    maps = cells_of([record(), record(command="python run.py defense.k=2")])
    dashboard.send_heat_maps("me", "lab", maps)
    logged = [call.args[0] for call in sent.log.call_args_list]
    assert [list(one) for one in logged] == [["heat map 1"], ["heat map 2"]]
    media = dashboard.pictures(2).panels[0].media_keys
    assert [key for key in media if key.startswith("heat map")] == ["heat map 1", "heat map 2"]


def test_the_heat_map_grows_with_what_there_is(tmp_path):
    runs = [record(attack=attack, seed=seed) for attack in ("badnets", "sig") for seed in (0, 1)]
    for name, some in ("two", runs), ("one", [*runs[:2], record(attack="lc", purified=None)]):
        ((title, cells),) = cells_of(some).items()
        heat_map(tmp_path / f"{name}.png", title, cells)
    two, one = (Image.open(tmp_path / f"{name}.png").size for name in ("two", "one"))
    assert two[1] > one[1]
