"""Faults of trainings, images, disks and the network: a word each, and nothing half."""

import errno
import logging
import os
import re

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from backdoor_lab import console
from backdoor_lab.datasets.files import decode_files
from backdoor_lab.errors import ConfigError
from backdoor_lab.reports.table import grid_table
from backdoor_lab.run import neighbours
from backdoor_lab.run.building import misfit
from backdoor_lab.run.gate import made_readable
from backdoor_lab.run.launch import leave_trace
from backdoor_lab.run.names import Names
from backdoor_lab.tracking import wandb as tracking
from backdoor_lab.training import Engine, Recipe, Tuning, constant, sgd
from backdoor_lab.validation import Count, Index, Rate, validated
from tests.records import record
from tests.tiny import tiny_aux


def tuned(tiny, lr, epochs=3):
    return Tuning(tiny, Recipe(epochs, 8, lr, sgd(0.0), constant), None, 0)


def test_a_diverged_training_stops_and_is_not_kept(engine, tiny, tmp_path):
    with pytest.raises(ConfigError, match=r"victim: .* not finite after epoch \d of 3"):
        engine.fit(tuned(tiny, 1e38), tiny_aux(32).data, "victim", folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_whose_answers_are_not_finite_has_no_scores(engine, tiny):
    with torch.no_grad():
        tiny.head.weight[0, 0] = float("nan")
    with pytest.raises(ConfigError, match="not finite"):
        engine.accuracy(tiny, tiny_aux(8).data)


def test_long_work_writes_lines_where_there_is_no_terminal(tiny, caplog, monkeypatch):
    monkeypatch.setattr(console, "EVERY", 0)
    engine = Engine(accelerator="cpu", precision="32-true")
    with caplog.at_level(logging.INFO):
        engine.fit(tuned(tiny, 0.01), tiny_aux(32).data, "victim")
        with console.progress_bar() as bar:
            list(bar.track(range(3), description="gic"))
    assert "victim: epoch 1 of 3, loss" in caplog.text
    assert "images/s" in caplog.text
    assert "gic: 2 of 3" in caplog.text


def one_image(file):
    return decode_files([(file, 0)], 4, "some", "dataset.root")[0][0]


def test_sixteen_bits_keep_their_range_and_exif_turns(tmp_path):
    Image.fromarray(np.full((4, 4), 32768, np.uint16)).save(tmp_path / "grey.png")
    assert one_image(tmp_path / "grey.png").unique().tolist() == [128]
    half = Image.fromarray(np.array([[0] * 4, [0] * 4, [255] * 4, [255] * 4], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    half.save(tmp_path / "turned.png", exif=exif)
    assert one_image(tmp_path / "turned.png")[0, :, 0].tolist() == [255, 255, 0, 0]


def test_pipes_bombs_and_odd_names_are_a_sentence(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ConfigError, match=r"pipe\.png, which cannot be decoded"):
        one_image(tmp_path / "pipe.png")
    odd = tmp_path / os.fsdecode(b"\xff.png")
    odd.write_bytes(b"no image")
    with pytest.raises(ConfigError) as refusal:
        one_image(odd)
    assert "\\xff.png" in str(refusal.value).encode().decode()
    Image.new("L", (64, 64)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    with pytest.raises(ConfigError, match="bomb"):
        one_image(tmp_path / "bomb.png")


def test_a_refusal_takes_away_what_the_run_has_begun_and_nothing_else(tmp_path):
    names = Names("purify", {"dataset": "digits", "model": "narrow"}, ("attack.target=12",), 0)
    folder = tmp_path / "project"
    for kept in ([], ["thesis.txt"]):
        (folder / ".hydra").mkdir(parents=True)
        for name in ("run.log", "run.lock", *kept):
            (folder / name).touch()
        leave_trace(folder, names, ConfigError("no class"), in_grid=False)
        assert [(folder / name).exists() for name in kept] == [True] * len(kept)
        assert folder.exists() == bool(kept)


def test_the_disk_s_faults_are_one_sentence():
    full = OSError(errno.ENOSPC, "No space left on device", "x/model.safetensors")
    rust = RuntimeError("Error: No space left on device (os error 28)")
    for error in (full, rust):
        assert isinstance(made_readable(error), ConfigError)
        assert "No space left" in str(made_readable(error))
    bug = KeyError("x")
    assert made_readable(bug) is bug


def test_wandb_without_a_network_is_offline_with_a_word(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "made-up")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert tracking._mode("auto") == "offline"
    assert "does not answer" in caplog.text
    monkeypatch.setenv("WANDB_MODE", "banana")
    with pytest.raises(ConfigError, match="WANDB_MODE=banana is no mode"):
        tracking.WandbTracker("p", None, "auto")


def test_a_key_that_wandb_refuses_costs_the_run_nothing(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "short")  # its client refuses that without a network
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(tracking, "reachable", lambda: True)
    with tracking.WandbTracker("p", None, "auto").run("n", "g", "j", (), {}, tmp_path) as tracker:
        assert tracker.lightning_logger.experiment.offline
    assert "W&B refuses" in caplog.text
    refused = tracking.WandbTracker("p", None, "online")
    with (
        pytest.raises(ConfigError, match="logger.mode=online, but W&B refuses"),
        refused.run("n", "g", "j", (), {}, tmp_path),
    ):
        pass


@pytest.mark.parametrize("broken", [b"machine\n", b"\xff\xfe\x00"])
def test_a_broken_netrc_is_none(monkeypatch, tmp_path, broken):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "netrc").write_bytes(broken)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert tracking._mode("auto") == "offline"


def test_a_grid_s_table_shows_what_was_swept():
    runs = [record(command=f"python run.py attack.target={n} aux=seen") for n in (0, 1)]
    assert grid_table(runs).columns[0].header == "attack.target"


@pytest.mark.parametrize(
    ("threads", "cores", "said"),
    [
        (4, 4, "trainer.threads=2 suits them"),
        (2, 1, "trainer.threads=1 suits them"),
        (1, 1, "there are more runs than cores"),
        (2, 4, ""),
    ],
)
def test_a_crowd_on_few_cores_is_said(monkeypatch, caplog, threads, cores, said):
    monkeypatch.setattr(neighbours, "others", lambda: 1)
    monkeypatch.setattr(neighbours, "cores_here", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    neighbours.warn_of_crowd()
    assert [message.rpartition(": ")[2] for message in caplog.messages] == ([said] if said else [])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"limit": 1.5}, "aux.limit=1.5 does not fit: .* fractional part or be less than .* 1$"),
        ({"some": [-1]}, r"aux.some=\[-1\] does not fit: .* integer or be greater than .* 0$"),
        ({"each": [1, -2]}, "aux.each.1=-2 does not fit: Input should be greater than .* 0$"),
    ],
)
def test_a_misfit_says_what_each_type_wants_and_nothing_of_pydantic(given, said):
    @validated
    def aux(
        limit: Count | Rate = 1,
        some: Count | tuple[Index, ...] = 1,
        each: list[Index] | None = None,
    ):
        pass

    with pytest.raises(ValidationError) as error:
        aux(**given)
    assert re.match(said, misfit("aux", error.value))


@pytest.mark.parametrize(
    ("given", "said"), [((0, 8, 0.1), "epochs=0"), ((1, 8, -1.0), "lr=-1.0")], ids=str
)
def test_a_misfit_names_what_a_recipe_is_given_by_position(given, said):
    with pytest.raises(ValidationError) as error:
        Recipe(*given)
    assert misfit("defense", error.value).startswith(f"defense.{said} does not fit")
