"""Where the victims of cells will lie in the store, and whether they do. Loads without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from backdoor_lab.config.identity import victim_identity
from backdoor_lab.config.names import choices_of
from backdoor_lab.errors import method_name
from backdoor_lab.run.finished import CODE, asked_of
from backdoor_lab.store import Notes, Store


@dataclass(frozen=True)
class Maker:
    """What makes the victims of cells that differ in seeds alone, as `Workshop` will name them."""

    store: Store
    name: str
    key: dict[str, Any]

    @classmethod
    def of(cls, cfg: DictConfig) -> Maker:
        """That of a cell, composed with Hydra's own node; what its data are may be noted."""
        key = victim_identity(cfg)
        root = key.pop("root", None)
        key["data"] = Notes(Path(cfg.paths.cache)).read("fingerprint", asked_of(cfg)) or root
        key["code"] = CODE.of(key)
        model = choices_of(cfg.hydra.runtime.choices)["model"]
        name = f"{cfg.dataset.name}-{model}-{method_name(cfg.attack._target_)}"
        return cls(Store(Path(cfg.paths.outputs) / "victims"), name, key)

    def victim(self, seed: int) -> Path:
        """The folder of the victim of a seed; it is there only when it is whole."""
        return self.store.folder(self.name, self.key | {"seed": seed})
