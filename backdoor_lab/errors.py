"""The errors that users are meant to read."""

from hydra.errors import CompactHydraException


class ConfigError(CompactHydraException):
    """A value that cannot work; Hydra shows its sentence alone, without a traceback.

    The sentence names the key, what was given and what is allowed.
    """


class DivergedError(ConfigError):
    """A training, or a model's answers, that are not finite."""


def spelled(method: object) -> str:
    """A method as it is typed."""
    kind = type(method)
    return method_name(f"{kind.__module__}.{kind.__name__}")


def method_name(target: str) -> str:
    """The name of a method by its `_target_`: that of its file, here perhaps of its folder.

    Such as `lc` of `backdoor_lab.attacks.lc.lc.LC`, and `adapter` of a user's
    `mydefenses.adapter.Adapter`, which may lie at any depth.
    """
    parts = target.split(".")
    return parts[2] if parts[0] == "backdoor_lab" else parts[-2]
