"""One group of the config becomes an object, or a sentence. Loads without torch."""

from __future__ import annotations

import re
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
            first = cause.errors()[0]
            where = ".".join([key, *(str(part) for part in first["loc"])])
            return f"{where}={first['input']!r} does not fit: {first['msg']}"
        cause = cause.__cause__ or cause.__context__
    return f"{key}: {str(error).splitlines()[0]}"
