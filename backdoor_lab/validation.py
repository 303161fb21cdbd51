"""Ranges that stand in signatures, checked where an object is built."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, validate_call

Function = TypeVar("Function", bound=Callable[..., Any])
LARGEST = 10**9  # more epochs, images or pixels than anybody has are a slip of the finger


def no_flag(value: Any) -> Any:
    """A number; Python would take true for 1.

    Raises:
        ValueError: `value` is true or false.
    """
    if isinstance(value, bool):
        raise ValueError("a number is wanted, not true or false")
    return value


NUMBER = BeforeValidator(no_flag)
Rate = Annotated[float, NUMBER, Field(gt=0, le=1)]
Fraction = Annotated[float, NUMBER, Field(ge=0, le=1)]
Momentum = Annotated[float, NUMBER, Field(ge=0, lt=1)]
Positive = Annotated[float, NUMBER, Field(gt=0)]
NonNegative = Annotated[float, NUMBER, Field(ge=0)]
Ratio = Annotated[float, NUMBER, Field(gt=1)]
Count = Annotated[int, NUMBER, Field(ge=1, le=LARGEST)]
Index = Annotated[int, NUMBER, Field(ge=0, le=LARGEST)]


def validated(function: Function) -> Function:
    """Check arguments against the annotated types and ranges; pydantic names the wrong one."""
    config = ConfigDict(arbitrary_types_allowed=True)
    return validate_call(config=config)(function)
