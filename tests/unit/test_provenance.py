"""A number is stale when code that shaped it has changed, and only then."""

import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES

import pytest

from backdoor_lab.config import ROOT, plain_config
from backdoor_lab.config.identity import run_identity, victim_identity
from backdoor_lab.store import Provenance
from tests.conftest import names

PACKAGE = ROOT / "backdoor_lab"


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the package that may be edited; put back after each edit."""
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(PACKAGE, root / "backdoor_lab", ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.fixture
def edit(copy):
    before = {}

    def apply(place, old, new):
        file = copy / "backdoor_lab" / place
        before.setdefault(file, file.read_text() if file.exists() else None)
        text = before[file] or old
        assert old in text
        file.write_text(text.replace(old, new) if old else new)

    yield apply
    for file, text in before.items():
        file.unlink() if text is None else file.write_text(text)


@pytest.fixture
def digests(config, copy):
    """(victim, result) of a run, by the copy's code."""
    cfg = config("attack=wanet", "defense=unibp", "aux=external", "dataset=digits")

    def compute():
        code = Provenance(copy)
        return code.of(victim_identity(cfg)), code.of(run_identity(cfg))

    return compute


def test_source_that_is_held_stays_what_it_was(copy, edit):
    asked = [("backdoor_lab.evaluation.scores", "defense_effectiveness")]
    loaded, read_now = Provenance(copy), Provenance(copy)
    loaded.hold(["backdoor_lab.evaluation.scores", "torch"])
    before = Provenance(copy).of_symbols(asked)
    edit("evaluation/scores.py", "/ 2", "/ 3")
    assert loaded.of_symbols(asked) == before != read_now.of_symbols(asked)


def test_children_hold_the_source_of_what_is_loaded_for_them():
    held = "import backdoor_lab.run.preloaded; from backdoor_lab.run.finished import CODE; "
    told = "print('backdoor_lab.run.job' in CODE.sources, 'backdoor_lab.tasks' in CODE.sources)"
    found = subprocess.run([sys.executable, "-c", held + told], capture_output=True, text=True)
    assert found.stdout.split() == ["True", "True"]


def test_a_copy_is_the_same_code(config, digests):
    cfg = config("attack=wanet", "defense=unibp", "aux=external", "dataset=digits")
    assert digests()[1] == Provenance().of(run_identity(cfg))


SHAPES_BOTH = [
    ("attacks/wanet.py", "poisoned * self.cross_ratio", "1 + poisoned * self.cross_ratio"),
    ("attacks/_base.py", "1 <= count", "2 <= count"),
    ("models/preact_resnet.py", "F.relu(self.bn1(x))", "F.gelu(self.bn1(x))"),
    ("datasets/_base.py", "without(len(whole), held)", "held"),
    ("datasets/_grey.py", "TEST_SHARE = 0.2", "TEST_SHARE = 0.3"),
    ("training/engine.py", "module.train()", "module.eval()"),
    ("training/augment.py", "2 * self.padding", "3 * self.padding"),
    ("training/schedules.py", "warm_up: Rate = 0.3", "warm_up: Rate = 0.4"),
    ("seeds.py", ">> 1", ">> 2"),
]
SHAPES_RESULT = [
    ("evaluation/examination.py", "exam.wanted)", "exam.triggered.labels)"),
    ("evaluation/scores.py", "+ 1) / 2", "+ 1) / 3"),
    ("evaluation/stealth.py", "data_range=255.0", "data_range=256.0"),
    ("aux_data/_fonts.py", "CANVAS = 64", "CANVAS = 65"),
    ("calibration/none.py", "return aux", "return aux or aux"),
    ("defenses/unibp/rectification.py", "0.05", "0.06"),
    ("callbacks/fisher_scores.py", "** 2", "** 3"),
]
SHAPES_NOTHING = [
    ("console.py", "TimeRemainingColumn()", "TimeRemainingColumn(compact=True)"),
    ("callbacks/fit_progress.py", "self.bar.stop()", "self.bar.refresh()"),
    ("reports/table.py", 'DASH = "–"', 'DASH = "-"'),
    ("training/engine.py", "recipe = module.recipe\n", "recipe = module.recipe  # its\n"),
    ("training/schedules.py", '"""The same rate throughout."""', '"""No change."""'),
    ("attacks/badnets.py", "round(3 * height / 32)", "round(4 * height / 32)"),
    ("defenses/clp.py", "self.u = u", "self.u = 2 * u"),
    ("training/schedules.py", "gamma: Rate = 0.1", "gamma: Rate = 0.2"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "old", "new"), SHAPES_BOTH)
def test_what_shapes_the_victim_makes_both_stale(digests, edit, place, old, new):
    before = digests()
    edit(place, old, new)
    after = digests()
    assert after[0] != before[0]
    assert after[1] != before[1]


@pytest.mark.parametrize(("place", "old", "new"), SHAPES_RESULT)
def test_what_shapes_the_result_alone_leaves_the_victim(digests, edit, place, old, new):
    before = digests()
    edit(place, old, new)
    after = digests()
    assert after[0] == before[0]
    assert after[1] != before[1]


@pytest.mark.parametrize(("place", "old", "new"), SHAPES_NOTHING)
def test_what_shapes_nothing_here_makes_nothing_stale(digests, edit, place, old, new):
    before = digests()
    edit(place, old, new)
    assert digests() == before


def test_an_optimizer_a_callback_and_a_defense_make_nothing_stale(config, copy, edit):
    cfgs = [config(f"attack={attack}", "aux=seen") for attack in names("attack")]
    cfgs += [config(f"defense={defense}", "aux=seen") for defense in names("defense")]
    identities = [read(cfg) for cfg in cfgs for read in (victim_identity, run_identity)]
    code = Provenance(copy)
    before = [code.of(one) for one in identities]
    for folder, name in (("training", "Lion"), ("callbacks", "SWA"), ("defenses", "Probe")):
        module = f"backdoor_lab.{folder}.{name.lower()}"
        edit(f"{folder}/{name.lower()}.py", "", f"class {name}:\n    strength = 1\n")
        edit(f"{folder}/__init__.py", "__all__", f"from {module} import {name}\n__all__")
    code = Provenance(copy)
    assert [code.of(one) for one in identities] == before


def test_code_of_a_user_counts_too(tmp_path, monkeypatch):
    file = tmp_path / "mine.py"
    monkeypatch.syspath_prepend(tmp_path)
    found = set()
    for text in ("class A:\n    x = 1\n", "class A:\n    x = 2\n", "class A:\n    x = 2  # two\n"):
        file.write_text(text)
        found.add(Provenance().of({"_target_": "mine.A"}))
    assert len(found) == 2


def test_what_is_installed_elsewhere_does_not_count(tmp_path, monkeypatch):
    elsewhere = tmp_path / "other" / "site-packages"
    elsewhere.mkdir(parents=True)
    (elsewhere / "installed.py").write_text("class A:\n    x = 1\n")
    (tmp_path / f"compiled{EXTENSION_SUFFIXES[0]}").write_bytes(b"\xf0\x28\x00")
    for place in (elsewhere, tmp_path):
        monkeypatch.syspath_prepend(place)
    nothing = Provenance().of({})
    assert Provenance().of({"_target_": "installed.A"}) == nothing
    assert Provenance().of({"_target_": "compiled.A"}) == nothing


def test_every_method_reaches_its_own_code(config):
    """A group whose `_target_` could not be found would never make anything stale."""
    code = Provenance()
    for attack in names("attack"):
        code.of(plain_config(config(f"attack={attack}"), "attack"))
        assert any(module.startswith(f"backdoor_lab.attacks.{attack}") for module, _ in code.texts)
