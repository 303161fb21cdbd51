"""What a victim is, and what every source of one offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from backdoor_lab.attacks import Attack
from backdoor_lab.errors import ConfigError, spelled
from backdoor_lab.models import Classifier, ModelFactory

if TYPE_CHECKING:
    from backdoor_lab.victims.imported.layout import Layout
    from backdoor_lab.victims.workshop import Workshop


@dataclass(frozen=True)
class Victim:
    """A classifier to be purified, and what is known of its backdoor.

    Attributes:
        model: the classifier, in eval mode.
        attack: answers for the trigger; None where nobody knows one.
        poisoned: positions (P,) in the training split; None where nobody knows what it was.
        name: tells it from all others.
        seconds: what its training took.
        cached: whether it was there already.
        facts: where it comes from, for the report; of one that was trained here, nothing.
        layout: how whoever brought it calls its weights; None: as they are called here.
        folder: where it is kept; None: nowhere.
    """

    model: Classifier
    attack: Attack | None
    poisoned: Tensor | None
    name: str
    seconds: float = 0.0
    cached: bool = True
    facts: dict[str, Any] = field(default_factory=dict)
    layout: Layout | None = None
    folder: Path | None = None

    @property
    def details(self) -> dict[str, Any]:
        """What its attack has to report."""
        return self.attack.details if self.attack else {}


class VictimSource(ABC):
    """Brings the victim of a run.

    Attributes:
        knows_training: whether the training images and the poisoned ones among them are known.
    """

    knows_training: ClassVar[bool] = True

    def check(self, attack: Attack, architecture: ModelFactory) -> None:
        """Refuse what cannot work, before any data is read.

        Raises:
            ConfigError: names the key, what was given and what is allowed.
        """
        del architecture
        if not attack.known:
            raise ConfigError(
                f"attack={spelled(attack)}, but a victim that is trained here learns a trigger; "
                "allowed: any other attack, or victim=imported"
            )

    @abstractmethod
    def bring(self, attack: Attack, shop: Workshop) -> Victim:
        """The victim.

        Args:
            attack: of the run, attached to the data.
            shop: data, model, recipe and store.
        """
