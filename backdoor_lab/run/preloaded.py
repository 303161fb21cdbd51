"""What is loaded before children are copied, with its source as it is at that moment.

A file that changes while a grid runs changes nothing that is loaded, and no record may claim so:
the digests of its code are of the source that is held here.
"""

from __future__ import annotations

import importlib
import sys

from backdoor_lab.run.finished import CODE

for name in ("backdoor_lab.run.job", "backdoor_lab.tasks.purify", "hydra.main"):
    importlib.import_module(name)
CODE.hold(list(sys.modules))
