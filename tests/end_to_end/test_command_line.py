"""What a user types, and what comes back: each command is a process of its own."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from backdoor_lab.config import ROOT

QUICK = ["recipe.epochs=1", "dataset.limit_train=200", "dataset.limit_test=100", "pictures=false"]


def lab(*arguments, expect=0, before=None):
    """Output of `python run.py ...`, whose exit code is `expect`; `before` runs in its process."""
    done = subprocess.run(
        [sys.executable, "run.py", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=300, preexec_fn=before,
    )  # fmt: skip
    text = done.stdout + done.stderr
    assert done.returncode == expect, text
    return text


def results(folder):
    return [json.loads(file.read_text()) for file in sorted(folder.rglob("result.json"))]


def refusals(text):
    """Lines that refuse a cell of a grid."""
    return [line for line in text.splitlines() if "[HYDRA]" in line]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


def test_one_run_leaves_a_result_and_pictures(outputs):
    arguments = [f"paths.outputs={outputs}/one", "attack=badnets", "defense=unibp", "aux=external"]
    short = [*QUICK[:3], "aux.size=60", "defense.epochs=1"]
    text = lab(*arguments, *short, "logger=csv")
    assert "ACC %" in text
    (result,) = results(outputs / "one")
    names = {"acc", "asr", "ra", "cross", "der", "acc_target", "acc_worst"}
    assert set(result["victim"]) == set(result["purified"]) == names
    assert result["victim"]["der"] is None
    assert result["costs"]["victim"]["parameters"] == result["costs"]["purified"]["parameters"]
    assert 20 < result["trigger"]["psnr"] < 40
    assert result["details"]["attack"]["poisoned"] > 0
    assert 0 <= result["purified"]["der"] <= 1
    assert result["command"].startswith("python run.py ")
    (folder,) = (file.parent for file in (outputs / "one").rglob("result.json"))
    assert {"trigger.png", "scores.png", "features.png"} <= {file.name for file in folder.iterdir()}
    (victim,) = (outputs / "one" / "victims").rglob("model.safetensors")
    before, after = load_file(victim), load_file(folder / "purified.safetensors")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    again = lab(*arguments, *short, "logger=csv")
    assert "finished already" in again
    made = (folder / "purified.safetensors").stat().st_mtime_ns
    (folder / "scores.png").unlink()
    lab(*arguments, *short, "logger=csv", "views=true")
    assert {"scores.png", "view_auxiliary.png"} <= {file.name for file in folder.iterdir()}
    assert (folder / "purified.safetensors").stat().st_mtime_ns == made
    (folder / "purified.safetensors").unlink()
    lab(*arguments, *short, "logger=csv")
    assert load_file(folder / "purified.safetensors").keys() == after.keys()


def test_a_victim_is_a_task_of_its_own(outputs):
    folder = outputs / "one"  # its victim is there already
    text = lab(f"paths.outputs={folder}", "task=victim", "attack=badnets", *QUICK[:3])
    assert "victim" in text
    assert "purified" not in text
    (record,) = (one for one in results(folder) if one["task"] == "victim")
    assert record["purified"] is None


def test_one_defense_after_another_and_the_trainer_s_own_options(outputs):
    folder = outputs / "chain"
    timer = "+trainer.callbacks.timer._target_=lightning.pytorch.callbacks.Timer"
    dry = ["trainer.fast_dev_run=true", timer, "trainer.threads=1"]
    text = lab(f"paths.outputs={folder}", "defense=clp", "defense@then=ft", *dry, *QUICK)
    assert "clp → ft" in text
    (record,) = results(folder)
    assert record["chain"] == ["clp", "ft"]
    assert set(record["details"]["defense"]) == {"clp", "ft"}


def test_triggered_images_are_written_for_use_outside(outputs):
    folder = outputs / "one"  # its victim is there already
    text = lab(
        f"paths.outputs={folder}", "attack=badnets", "export=poisoned", "aux=none", *QUICK[:3]
    )
    assert "export-poisoned" in text
    (test,) = folder.rglob("test.npz")
    held = np.load(test)
    assert len(held["images"]) == len(held["label"]) == len(held["index"])
    assert (test.parent / "train.npz").exists()
    assert len([path for path in (folder / "victims").iterdir() if path.is_dir()]) == 1


def test_an_attack_around_another_is_named_after_both(outputs):
    folder = outputs / "wrapped"
    chosen = ["attack=adaptive", "attack@attack.inner=blended", "defense=none", "aux=none"]
    lab(f"paths.outputs={folder}", *chosen, *QUICK)
    (result,) = results(folder)
    assert result["choices"]["attack"] == "adaptive-blended"
    assert len(result["details"]["attack"]["scaled_components"]) == 1
    text = lab(f"paths.outputs={folder}", *chosen, "attack.inner.alpha=2", *QUICK, expect=1)
    assert "attack.inner.alpha=2" in text


def test_a_grid_trains_each_victim_once_and_names_what_failed(outputs):
    folder = outputs / "grid"
    text = lab(
        "-m",
        f"paths.outputs={folder}",
        "attack=badnets,blended",
        "defense=none,clp",
        "aux=seen,reserved",
        "aux.size=3,150",
        *QUICK,
        expect=1,
    )
    assert "12 done, 4 failed" in text
    assert "12 runs, dataset digits" in text
    assert sum("→" in line and "│" in line for line in text.splitlines()) == 12
    assert "aux=reserved aux.size=150" in text
    assert len(results(folder)) == 12
    victims = [path for path in (folder / "victims").iterdir() if path.is_dir()]
    assert len(victims) == 2


@pytest.mark.parametrize("launcher", ["basic", "pool"])
def test_yamls_of_a_user_s_own_serve_every_launcher(outputs, tmp_path, launcher):
    (tmp_path / "attack").mkdir()
    mine = (ROOT / "conf" / "attack" / "badnets.yaml").read_text()
    (tmp_path / "attack" / "mine.yaml").write_text(mine)
    folder, own = outputs / f"own_{launcher}", f"--config-dir={tmp_path}"
    grid = ["attack=mine", "defense=none", "aux=none", "seed=0,1", "keep_model=false"]
    lab("-m", own, f"hydra/launcher={launcher}", f"paths.outputs={folder}", *grid, *QUICK)
    assert len(results(folder)) == 2
    assert all(own in record["command"] for record in results(folder))


@pytest.mark.parametrize(
    ("choice", "sentences"),
    [
        ("attack.target=0,12,13", ["attack.target=12 is no class", "attack.target=13 is no class"]),
        ("seed=0,abc", ["Value 'abc' of type 'str' could not be converted to Integer"]),
    ],
)
def test_bad_cells_stop_the_grid_before_it_begins(outputs, choice, sentences):
    folder = outputs / "bad"
    text = lab("-m", f"paths.outputs={folder}", choice, "defense=none", *QUICK, expect=1)
    assert "Traceback" not in text
    assert "warn" not in text
    for line, sentence in zip(refusals(text), sentences, strict=True):
        assert sentence in line
    assert not results(folder)


def test_a_bad_value_is_one_sentence(outputs):
    text = lab(f"paths.outputs={outputs}/refused", "attack.poison_rate=2", expect=1)
    assert "attack.poison_rate" in text
    assert "Traceback" not in text
    assert not list((outputs / "refused").rglob("*.yaml"))


def test_a_name_that_is_none_is_one_sentence_in_a_grid_too(outputs):
    text = lab("-m", f"paths.outputs={outputs}/none", "attack=badnets,nosuch", *QUICK, expect=1)
    assert text.startswith("attack=nosuch is no attack; allowed: adaptive, badnets,")
    assert len(text.splitlines()) == 1
    assert not (outputs / "none").exists()


def test_wandb_works_without_an_account(outputs):
    lab(
        f"paths.outputs={outputs}/wandb",
        "attack=none",
        "defense=none",
        "aux=none",
        "logger=wandb",
        *QUICK,
    )
    (result,) = results(outputs / "wandb")
    assert result["victim"]["asr"] is None
    assert list((outputs / "wandb").rglob("*.wandb"))


def test_help_and_version_are_quick_and_whole():
    assert "attack=wanet" in lab("--help")
    assert "torch" in lab("--version")
