"""Ranges that stand in signatures, checked where an object is built."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, validate_call

Function = TypeVar("Function", bound=Callable[..., Any])

Rate = Annotated[float, Field(gt=0, le=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Ratio = Annotated[float, Field(gt=1)]
Index = Annotated[int, Field(ge=0)]


def validated(function: Function) -> Function:
    """Check arguments against the annotated types and ranges; pydantic names the wrong one."""
    config = ConfigDict(arbitrary_types_allowed=True)
    return validate_call(config=config)(function)
