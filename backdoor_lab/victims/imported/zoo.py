"""Which architecture a file's weights belong to; networks here have shapes and no memory."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from math import prod
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from backdoor_lab.config.places import CONF
from backdoor_lab.datasets import DataSpec
from backdoor_lab.errors import ConfigError
from backdoor_lab.models import Classifier, ModelFactory
from backdoor_lab.victims.imported.layout import COUNTER, Layout, Misfit, Shapes, matched
from backdoor_lab.victims.imported.sequence import in_sequence, options_of

ANY = DataSpec("any", ("0", "1"), (3, 32, 32), (0.5,) * 3, (0.5,) * 3, padding=0, flip=False)


def fitted(
    ways: list[dict[str, str]], shapes: Shapes, factory: ModelFactory, wrapped: str | None = None
) -> tuple[Layout, ModelFactory] | Misfit:
    """The layout of a file for an architecture, and what builds the network that it belongs to.

    Both stems of a ResNet are tried: the file proves which one it is.
    """
    nearest: Misfit | None = None
    for small in (factory.small_stem, not factory.small_stem):
        expected = skeleton(factory, small)
        if expected is None:
            continue
        head = head_of(expected)
        found = matched(ways, shapes, expected, head, wrapped)
        if isinstance(found, Layout):
            return found, rebuilt(factory, small, {})
        nearest = found if nearest is None or len(found) < len(nearest) else nearest
        for way in ways:
            found = matched([in_sequence(way, expected)], shapes, expected, head, wrapped)
            if isinstance(found, Layout):
                return found, rebuilt(factory, small, options_of(way))
    assert nearest is not None  # every architecture has one stem
    return nearest


def rebuilt(factory: ModelFactory, small_stem: bool, options: dict[str, Any]) -> ModelFactory:
    """A factory of networks to be filled: with this stem, and options that nobody has chosen."""
    return ModelFactory(factory.architecture, False, small_stem, options | factory.options)


def skeleton(factory: ModelFactory, small: bool) -> Shapes | None:
    """Shapes of all weights by name, the head last; None where there is no such stem."""
    return shapes_of(factory.architecture, small, json.dumps(factory.options))


@cache
def shapes_of(architecture: str, small: bool, options: str) -> Shapes | None:
    """As `skeleton`, of options in JSON; a network is laid out once."""
    try:
        with torch.device("meta"):
            net = Classifier(architecture, ANY, False, small, json.loads(options)).net
    except ConfigError:
        if small:
            return None
        raise
    except TypeError as error:
        raise ConfigError(
            f"model.options={options} do not fit model.architecture={architecture} ({error}); "
            "allowed: those of timm's function of this name"
        ) from None
    linear = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ConfigError(
            f"model.architecture={architecture} has no linear layer as its head; allowed: an "
            "architecture that ends in one"
        )
    head = linear[-1]
    state = {name: tuple(one.shape) for name, one in net.state_dict().items()}
    last = {name: state.pop(name) for name in list(state) if name.startswith(f"{head}.")}
    return state | last


def head_of(expected: Shapes) -> str:
    """The name of the last linear layer, whose outputs are the classes."""
    return list(expected)[-1].rpartition(".")[0]


def outputs(shapes: Shapes, layout: Layout, factory: ModelFactory) -> int:
    """How many classes a file's network tells apart."""
    expected = skeleton(factory, factory.small_stem)
    assert expected is not None  # the layout was found with it
    return shapes[layout.names[f"{head_of(expected)}.weight"]][0]


def of_the_zoo(ways: list[dict[str, str]], shapes: Shapes) -> list[str]:
    """The names of `conf/model` whose architecture a file's weights fit."""
    fit = []
    for file in sorted((CONF / "model").glob("[!_]*.yaml")):
        chosen: Any = OmegaConf.to_container(OmegaConf.load(file))
        chosen.pop("_target_")
        factory = ModelFactory(**chosen)
        if large_enough(shapes, factory) and isinstance(fitted(ways, shapes, factory), tuple):
            fit.append(file.stem)
    return fit


def large_enough(shapes: Shapes, factory: ModelFactory) -> bool:
    """Whether a file has a tensor of the size of each weight before the head, under any name.

    Asked first: to compare names in every reading takes seconds where they are thousands.
    """
    held = Counter(map(prod, shapes.values()))
    for small in (True, False):
        expected = skeleton(factory, small)
        if expected is not None:
            head = f"{head_of(expected)}."
            body = [name for name in expected if not name.startswith(head)]
            if Counter(prod(expected[n]) for n in body if not n.endswith(COUNTER)) <= held:
                return True
    return False
