"""What takes long is made once, and found again by what it was made from."""

from backdoor_lab.store.artifacts import Store, plain
from backdoor_lab.store.code import code_digest
from backdoor_lab.store.workshop import Artifact, CleanModel, Workshop

__all__ = ["Artifact", "CleanModel", "Store", "Workshop", "code_digest", "plain"]
