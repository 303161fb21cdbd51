"""Methods of a user's own package, chosen from a folder of yamls of their own."""

import pytest

from backdoor_lab.errors import method_name
from backdoor_lab.run.job import perform
from backdoor_lab.run.names import Names
from tests.unit.test_tasks import CHOICES, QUICK

FILES = {
    "mylab/corner.py": """
from backdoor_lab.attacks import Attack

class Corner(Attack):
    def trigger(self, images):
        images = images.clone()
        images[..., -4:, -4:] = 1
        return images
""",
    "mylab/kept.py": """
from backdoor_lab.defenses import Defense

class Kept(Defense):
    needs_images = needs_labels = False

    def purify(self, model, aux):
        self.details = {"kept": True}
        return model
""",
    "conf/attack/corner.yaml": """
_target_: mylab.corner.Corner
facts: {trained_by: victim, clean_label: false}
poison_rate: 0.1
target: 0
""",
    "conf/defense/kept.yaml": "_target_: mylab.kept.Kept\nfacts: {paper: null}\n",
    "conf/aux/mine.yaml": "defaults: [seen, _self_]\n",
}


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """The folder of a user's yamls; their package can be imported."""
    for name, text in FILES.items():
        file = tmp_path / "theirs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "theirs")
    return tmp_path / "theirs" / "conf"


def test_methods_of_another_package_go_through_a_whole_run(config, outside, tmp_path):
    chosen = {"attack": "corner", "defense": "kept", "aux": "mine"}
    overrides = [*QUICK, *(f"{group}={name}" for group, name in chosen.items())]
    cfg = config(f"hydra.searchpath=[{outside}]", *overrides)
    (tmp_path / "run").mkdir()
    found = perform(cfg, Names.of(cfg, CHOICES | chosen, ()), tmp_path / "run")
    assert found.victim_name.startswith("digits-narrow-corner-")
    assert found.details["defense"] == {"kept": {"kept": True}}


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("backdoor_lab.attacks.wanet.WaNet", "wanet"),
        ("backdoor_lab.attacks.lc.lc.LC", "lc"),
        ("adapter.Adapter", "adapter"),
        ("mydefenses.deep.adapter.Adapter", "adapter"),
    ],
)
def test_a_method_is_called_as_its_file_or_here_its_folder(target, name):
    assert method_name(target) == name
