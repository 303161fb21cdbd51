"""An inspection as it is typed: what is shown, what lies in the folder, read without torch."""

import subprocess
import sys

from backdoor_lab.config import ROOT
from tests.end_to_end.test_command_line import QUICK, lab, results

SHORT = [
    "++values_for.mm_bd.steps=2", "++values_for.neural_cleanse.passes=2",
    "++values_for.bti_dbf.steps=2", "aux.size=40", "trainer.threads=1",
]  # fmt: skip
READ = """
import sys
from pathlib import Path
from backdoor_lab.records import collect
from backdoor_lab.reports.inspection import inspection_tables
(record,) = collect(Path(sys.argv[1])).values()
assert len(list(inspection_tables(record))) == 3
assert "torch" not in sys.modules
"""


def test_a_victim_and_what_a_defense_makes_of_it_are_inspected(tmp_path):
    text = lab(
        f"paths.outputs={tmp_path}", "task=inspect", "attack=badnets", "defense=clp", *SHORT,
        *QUICK[:3],
    )  # fmt: skip
    assert "no proof of a clean model" in " ".join(text.split())
    (result,) = results(tmp_path)
    found = result["inspection"]
    assert set(found["evidence"]) == {"victim", "purified", "sham"}
    for held in found["evidence"].values():
        assert set(held) == {"bti_dbf", "mm_bd", "neural_cleanse", "spectral", "strip"}
        assert held["strip"]["verdict"] == held["spectral"]["verdict"] == "not applicable"
        assert len(held["neural_cleanse"]["scores"]) == 10
    assert set(found["changes"]) == {"purified", "sham"}
    (folder,) = (file.parent for file in tmp_path.rglob("result.json"))
    pictures = {"evidence.png", *(f"inverted_{name}.png" for name in found["evidence"])}
    assert pictures <= {file.name for file in folder.iterdir()}
    subprocess.run([sys.executable, "-c", READ, str(tmp_path)], cwd=ROOT, check=True)
