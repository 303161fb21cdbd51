"""The errors that users are meant to read."""

from hydra.errors import CompactHydraException


class ConfigError(CompactHydraException):
    """A value that cannot work; Hydra shows its sentence alone, without a traceback.

    The sentence names the key, what was given and what is allowed.
    """


class DivergedError(ConfigError):
    """A training, or a model's answers, that are not finite."""


def spelled(method: object) -> str:
    """A method as it is typed: the name of its file or folder, `backdoor_lab.<group>.<name>`."""
    return type(method).__module__.split(".")[2]
