import csv
import json
import subprocess
import sys
from contextlib import nullcontext
from itertools import product
from pathlib import Path

import pytest
import torch
import yaml
from hydra.utils import instantiate
from lightning import LightningModule, Trainer
from omegaconf import OmegaConf
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from backdoor_lab.callbacks import EpochLoss
from backdoor_lab.config.checks import refuse
from backdoor_lab.errors import ConfigError
from backdoor_lab.run.exits import Stopped
from backdoor_lab.tracking.csv import CSVTracker
from backdoor_lab.tracking.none import NoTracker
from backdoor_lab.tracking.wandb import WandbTracker, _mode

CONF = Path(__file__).parents[2] / "conf" / "logger"
RESULT = {"purified": {"acc": 0.9, "asr": None}, "note": "x"}


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


class Tiny(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(logger, title, epochs):
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=logger or False,
        callbacks=[EpochLoss(title)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Tiny(), DataLoader(torch.ones(4, 2), batch_size=2))


def opened(tracker, folder, name="r"):
    return tracker.run(name, "g", "defense", ["a", "b"], {"seed": 0, "attack": {"x": 1}}, folder)


def fail(tracker, folder):
    def broken():
        with opened(tracker, folder, "bad"):
            train(tracker.lightning_logger, "victim", 1)
            tracker.summary(RESULT)
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        broken()


@pytest.mark.parametrize("name", ["none", "csv", "wandb"])
def test_yaml(name):
    config = OmegaConf.load(CONF / f"{name}.yaml")
    assert type(instantiate(config)).__module__ == f"backdoor_lab.tracking.{name}"


def test_none_keeps_nothing(tmp_path):
    with opened(NoTracker(), tmp_path / "run") as tracker:
        assert tracker.lightning_logger is None
        tracker.summary(RESULT)
        tracker.images({"p": tmp_path / "p.png"})
    assert not (tmp_path / "run").exists()


def test_csv_rows_go_on_over_trainings(tmp_path):
    tracker = CSVTracker()
    with opened(tracker, tmp_path):
        train(tracker.lightning_logger, "victim", 2)
        train(tracker.lightning_logger, "ft", 3)
        tracker.summary(RESULT)
    rows = list(csv.DictReader((tmp_path / "csv" / "metrics.csv").open()))
    assert [row["step"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert [row["victim/epoch"] for row in rows[:2]] == ["1", "2"]
    assert [row["ft/epoch"] for row in rows[2:]] == ["1", "2", "3"]
    assert all(float(row["ft/loss"]) >= 0 for row in rows[2:])
    (row,) = csv.DictReader((tmp_path / "csv" / "summary.csv").open())
    assert row["purified/acc"] == "0.9"
    assert row["purified/asr"] == ""
    assert (row["name"], row["tags"], row["exit_code"]) == ("r", "a b", "0")
    assert tracker.lightning_logger is None


def test_csv_of_a_failed_run_and_of_the_next(tmp_path):
    tracker = CSVTracker()
    fail(tracker, tmp_path)
    (row,) = csv.DictReader((tmp_path / "csv" / "summary.csv").open())
    assert row["exit_code"] == "1"
    with opened(tracker, tmp_path):
        train(tracker.lightning_logger, "ft", 1)
    (row,) = csv.DictReader((tmp_path / "csv" / "metrics.csv").open())
    assert row["ft/epoch"] == "1"
    (row,) = csv.DictReader((tmp_path / "csv" / "summary.csv").open())
    assert "note" not in row


@pytest.mark.parametrize("raised", [Stopped(143), KeyboardInterrupt()], ids=repr)
def test_csv_of_a_stopped_run_goes_on(tmp_path, raised):
    tracker = CSVTracker()

    def once(title, error):
        with opened(tracker, tmp_path):
            train(tracker.lightning_logger, title, 2)
            if error is not None:
                raise error

    with pytest.raises(type(raised)):
        once("victim", raised)
    assert not (tmp_path / "csv" / "summary.csv").exists()
    once("ft", None)
    rows = list(csv.DictReader((tmp_path / "csv" / "metrics.csv").open()))
    assert [row["step"] for row in rows] == ["0", "1", "2", "3"]
    assert [row["victim/epoch"] for row in rows] == ["1", "2", "", ""]
    assert [row["ft/epoch"] for row in rows] == ["", "", "1", "2"]
    assert (tmp_path / "csv" / "summary.csv").exists()


def test_csv_of_a_killed_run_has_every_epoch(tmp_path):
    with opened(CSVTracker(), tmp_path) as tracker:
        tracker.lightning_logger.log_metrics({"victim/epoch": 1})
        (row,) = csv.DictReader((tmp_path / "csv" / "metrics.csv").open())
    assert row["victim/epoch"] == "1"


def test_wandb_mode_without_a_key(monkeypatch):
    assert _mode("auto") == "offline"
    assert _mode("offline") == "offline"
    monkeypatch.setenv("WANDB_MODE", "online")
    assert _mode("auto") == "offline"
    with pytest.raises(ConfigError, match=r"logger\.mode=online"):
        _mode("online")


@pytest.mark.parametrize("place", ["environment", "netrc"])
def test_wandb_mode_with_a_key(monkeypatch, tmp_path, place):
    if place == "environment":
        monkeypatch.setenv("WANDB_API_KEY", "made-up")
    else:
        (tmp_path / "netrc").write_text("machine api.wandb.ai login user password made-up\n")
    monkeypatch.setattr("backdoor_lab.tracking.wandb.reachable", lambda: False)
    assert _mode("auto") == _mode("online") == "offline"
    monkeypatch.setattr("backdoor_lab.tracking.wandb.reachable", lambda: True)
    assert _mode("auto") == "online"
    assert _mode("offline") == "offline"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert _mode("auto") == "offline"
    assert _mode("online") == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert _mode("auto") == "disabled"


def test_a_key_for_another_host_is_no_key(tmp_path):
    (tmp_path / "netrc").write_text("machine example.org login user password made-up\n")
    assert _mode("auto") == "offline"


def test_wandb_refuses_an_unknown_mode():
    with pytest.raises(ValueError, match="mode"):
        WandbTracker(project="p", entity=None, mode="sometimes")


def inspected(folder):
    """The records of the offline run in `folder`, by type, as W&B's own reader sees them."""
    (run,) = (folder / "wandb").glob("offline-run-*")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    records = {}
    for record in map(json.loads, out.splitlines()):
        records.setdefault(record["type"], []).append(record.get(record["type"]))
    return records


def test_wandb_offline_runs_stay_separate(tmp_path):
    tracker = WandbTracker(project="p", entity=None, mode="auto")
    picture = tmp_path / "p.png"
    Image.new("RGB", (4, 4)).save(picture)
    with opened(tracker, tmp_path / "good", "good"):
        train(tracker.lightning_logger, "victim", 2)
        train(tracker.lightning_logger, "ft", 2)
        tracker.summary(RESULT)
        tracker.images({"trigger": picture})
    fail(tracker, tmp_path / "bad")
    assert tracker.lightning_logger is None
    good, bad = inspected(tmp_path / "good"), inspected(tmp_path / "bad")

    (run,), (other,) = good["run"], bad["run"]
    assert run["run_id"] != other["run_id"]
    assert (run["display_name"], other["display_name"]) == ("good", "bad")
    assert (run["project"], run["run_group"], run["job_type"]) == ("p", "g", "defense")
    assert run["tags"] == ["a", "b"]
    assert run["config"]["update"]["attack"] == {"x": 1}
    assert (good["exit"][0]["exit_code"], bad["exit"][0]["exit_code"]) == (0, 1)

    axes = {metric["glob_name"]: metric["step_metric"] for metric in good["metric"]}
    assert axes == {"victim/*": "victim/epoch", "ft/*": "ft/epoch"}
    rows = [row["item"] for row in good["history"]]
    assert [row["ft/epoch"] for row in rows if "ft/loss" in row] == [1, 2]
    assert rows[-1]["trigger._type"] == "image-file"
    summary = {key: v for record in good["summary"] for key, v in record["update"].items()}
    assert summary["purified/acc"] == 0.9


def test_a_stopped_run_is_continued_and_one_that_ended_or_failed_is_not(tmp_path):
    tracker = WandbTracker(project="p", entity=None, mode="offline")
    ids = []

    def once(raised):
        with opened(tracker, tmp_path):
            ids.append(tracker.lightning_logger.experiment.id)
            if raised is not None:
                raise raised

    for raised in (Stopped(143), KeyboardInterrupt(), RuntimeError("diverged"), None, None):
        with nullcontext() if raised is None else pytest.raises(type(raised)):
            once(raised)
    assert ids[0] == ids[1] == ids[2]
    assert len(set(ids[2:])) == 3


def test_the_sweep_calls_the_command_line_with_what_composes(config):
    sweep = yaml.safe_load((CONF.parent / "wandb_sweep.yaml").read_text())
    assert (CONF.parents[1] / sweep["program"]).is_file()
    assert sweep["command"][-1] == "${args_no_hyphens}"
    parameters = sweep["parameters"]
    lists = [spec.get("values") or [spec["value"]] for spec in parameters.values()]
    for values in product(*lists):
        chosen = [f"{key}={value}" for key, value in zip(parameters, values, strict=True)]
        refuse(config("logger=wandb", *chosen))
