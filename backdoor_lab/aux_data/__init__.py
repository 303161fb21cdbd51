"""Every kind of auxiliary data a defender may hold."""

from backdoor_lab.aux_data._base import AuxiliaryKind, AuxiliarySet

__all__ = ["AuxiliaryKind", "AuxiliarySet"]
