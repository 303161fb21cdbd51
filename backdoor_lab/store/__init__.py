"""What takes long is made once, and found again by what it was made from. Loads without torch."""

from backdoor_lab.store.folders import RESUME, Store, sealed
from backdoor_lab.store.notes import Notes
from backdoor_lab.store.provenance import Provenance

__all__ = ["RESUME", "Notes", "Provenance", "Store", "sealed"]
