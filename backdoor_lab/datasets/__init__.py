"""Data sets as labelled uint8 tensors."""

from backdoor_lab.datasets._base import Data, Dataset, RawImages
from backdoor_lab.datasets._images import (
    DataSpec,
    ImageSet,
    evenly,
    in_eight_bits,
    nearest,
    stratified,
    truncate,
    without,
)

__all__ = [
    "Data",
    "DataSpec",
    "Dataset",
    "ImageSet",
    "RawImages",
    "evenly",
    "in_eight_bits",
    "nearest",
    "stratified",
    "truncate",
    "without",
]
