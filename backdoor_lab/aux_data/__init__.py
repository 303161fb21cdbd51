"""Every kind of auxiliary data a defender may hold."""

from backdoor_lab.aux_data._base import AuxiliaryKind
from backdoor_lab.aux_data._pool import Pool
from backdoor_lab.aux_data._set import AuxiliarySet

__all__ = ["AuxiliaryKind", "AuxiliarySet", "Pool"]
