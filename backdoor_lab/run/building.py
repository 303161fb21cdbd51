"""One group of the config becomes an object, or a sentence. Loads without torch."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from backdoor_lab.config import plain_config
from backdoor_lab.errors import ConfigError


def build(cfg: DictConfig, key: str) -> Any:
    """Instantiate one group; whatever is wrong with its values becomes one sentence."""
    try:
        return instantiate(plain_config(cfg, key), _convert_="all")
    except (InstantiationException, ValidationError, OmegaConfBaseException, TypeError) as error:
        raise ConfigError(sentence(key, error)) from None


def sentence(key: str, error: BaseException) -> str:
    """The cause of a failed instantiation in one sentence that names the key."""
    if nested := re.search(r"full_key: (\S+)", str(error)):
        key = f"{key}.{nested[1]}"  # what lies below the group, such as attack.inner
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConfigError):
            return str(cause)
        if isinstance(cause, ValidationError):
            return misfit(key, cause)
        cause = cause.__cause__ or cause.__context__
    return f"{key}: {str(error).splitlines()[0]}"


def misfit(key: str, error: ValidationError) -> str:
    """The first value that does not fit, and what each type that it might have had wants."""
    errors = error.errors()
    where = [str(one) for one in errors[0]["loc"] if not is_type(one)]
    wanted: dict[int | str, str] = {}
    for one in errors:
        keys = [str(part) for part in one["loc"] if not is_type(part)]
        if keys[: len(where)] == where:
            wanted.setdefault(next(filter(is_type, one["loc"]), ""), one["msg"])
    said = " or ".join(dict.fromkeys(wanted.values())).replace(" or Input should", " or")
    place = ".".join([key, *named(where, error.title)])
    return f"{place}={errors[0]['input']!r} does not fit: {said}"


def named(where: list[str], title: str) -> list[str]:
    """The keys of a place; a method's code may give the values of a recipe by position."""
    if title != "Recipe" or not where[0].isdigit():
        return where
    from backdoor_lab.training import Recipe  # torch is loaded, where a method was built

    return [fields(Recipe)[int(where[0])].name, *where[1:]]


def is_type(part: int | str) -> bool:
    """Whether a part of a place is no key or position, but a type that pydantic tried there."""
    return part in ("int", "float", "str", "bool") or "[" in str(part)
