"""What a defender holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from backdoor_lab.datasets import ImageSet
from backdoor_lab.errors import ConfigError


@dataclass(frozen=True)
class AuxiliarySet:
    """The defender's images; `labelled` says whether their labels may be read.

    `images` is None where the defender holds nothing; else a set of its own, through which no
    other image can be reached. Of an unlabelled set all labels are 0.
    """

    kind: str
    images: ImageSet | None
    labelled: bool
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> ImageSet:
        """The images.

        Raises:
            ConfigError: there are none.
        """
        if self.images is None:
            raise ConfigError("aux=none holds no images; allowed: any other aux")
        return self.images

    @property
    def labelled_data(self) -> ImageSet:
        """The images, for those who read the labels.

        Raises:
            ConfigError: the labels are not known.
        """
        if not self.labelled:
            raise ConfigError("aux.labelled=false, but labels were asked for; allowed: true")
        return self.data
