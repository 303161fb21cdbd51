import time

import pytest
import torch
from PIL import Image
from rich.console import Console

from backdoor_lab.console import console
from backdoor_lab.records import Cost
from backdoor_lab.reports.features import embed, feature_picture
from backdoor_lab.reports.pictures import score_picture, trigger_picture
from backdoor_lab.reports.table import grid_table, percent, result_table, run_title
from tests.records import record

DIGITS = [str(label) for label in range(10)]


@pytest.fixture
def result():
    return record()


def text(table, width=110):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


def test_title():
    assert run_title(record()) == "wanet → unibp (external, gic), digits, seed 0"
    assert "clp → ft" in run_title(record(chain=("clp", "ft")))
    assert run_title(record(chain=())) == "wanet, digits, seed 0"


@pytest.mark.parametrize(
    ("value", "shown"), [(0.9144, "91.44"), (0.0, "0.00"), (None, "–"), (float("nan"), "–")]
)
def test_percent(value, shown):
    assert percent(value) == shown


def test_result_table(result):
    lines = text(result_table(result)).splitlines()
    (victim,) = [line for line in lines if "victim" in line]
    (purified,) = [line for line in lines if "purified" in line]
    assert [cell.strip() for cell in victim.split("│")[1:-1]] == [
        "victim (cached)",
        *("91.44", "95.00", "81.00", "94.41", "–", "–", "41.2"),
    ]
    assert [cell.strip() for cell in purified.split("│")[1:-1]] == [
        "purified",
        *("90.56", "12.30", "10.00", "1.47", "88.70", "96.03", "12.3"),
    ]


def test_grid_table_shows_what_varies(result):
    grid = text(grid_table([result, record(attack="sig", purified=None)]))
    title = " ".join(grid.partition("┏")[0].split())  # wrapped to the width of the table
    assert title.startswith("2 runs")
    assert {"seed 0", "defense unibp"} <= set(title.split(", "))
    assert [line.split("│")[1].strip() for line in grid.splitlines() if "│" in line] == [
        "wanet",
        "sig",
    ]
    assert "91.4 → 90.6" in grid
    assert "91.4 → –" in grid
    assert "12.3, 10.0" in grid
    assert "95.0, 81.0" in grid


def test_grid_table_tells_purifications_of_one_victim_apart():
    grid = text(grid_table([record(), record(defender_seed=1)]))
    assert [line.split("│")[1].strip() for line in grid.splitlines() if "│" in line] == ["–", "1"]


def test_a_victim_alone_has_one_row():
    lines = text(result_table(record(chain=(), purified=None))).splitlines()
    assert sum("│" in line for line in lines) == 1


def test_a_model_of_another_size_is_said():
    costs = {"victim": Cost(2000, 10, 1.0), "purified": Cost(500, 5, 0.5)}
    shown = " ".join(text(result_table(record(costs=costs))).split())
    assert "2,000 → 500 parameters" in shown


def test_names_of_a_user_are_shown_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(console(), "_width", 200)
    tilted = [record(command=f"python run.py 'aux.classes=[{one},dog]'") for one in ("cat", "/x")]
    with console().capture() as shown:
        console().print(grid_table(tilted))
    assert "aux.classes" in shown.get()
    assert "'aux" not in shown.get()
    assert all(f"[{one},dog]" in shown.get() for one in ("cat", "/x"))
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    labels = torch.tensor([0, 1])
    trigger_picture(tmp_path / "t.png", images, images, labels, ["$5_$10", "$x^"])


def test_grid_table_of_nothing():
    assert "0 runs" in text(grid_table([]))


@pytest.mark.parametrize("channels", [1, 3])
def test_trigger_picture(tmp_path, channels):
    clean = torch.randint(0, 256, (4, channels, 12, 12), dtype=torch.uint8)
    triggered = clean.clone()
    triggered[..., -3:, -3:] = 255
    trigger_picture(tmp_path / "t.png", clean, triggered, torch.arange(4), DIGITS)
    assert Image.open(tmp_path / "t.png").width > 400


def test_score_picture(tmp_path, result):
    score_picture(tmp_path / "s.png", result)
    score_picture(tmp_path / "none.png", record(purified=None))
    assert Image.open(tmp_path / "s.png").width > 400
    assert (tmp_path / "none.png").exists()


def test_feature_picture_is_quick(tmp_path):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (500,), generator=generator)
    clean = torch.randn(500, 64, generator=generator) + 4 * labels[:, None]
    features = {"victim": (clean, clean[:400] + 1), "purified": (clean, clean[:400])}
    started = time.process_time()
    feature_picture(tmp_path / "f.png", features, labels, DIGITS)
    assert time.process_time() - started < 20
    assert Image.open(tmp_path / "f.png").width > 800


def test_embedding_is_seeded_and_takes_few_points():
    values = torch.randn(12, 5).numpy()
    assert (embed(values, 1) == embed(values, 1)).all()
