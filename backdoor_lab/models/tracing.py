"""Looks at the layers of a model while images pass through it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from backdoor_lab.models.frozen import frozen_copy

Look = Callable[[str, nn.Module, tuple[Any, ...], Any], None]


@contextmanager
def watched(
    model: nn.Module,
    look: Look,
    kinds: tuple[type[nn.Module], ...] = (nn.Module,),
    before: bool = False,
) -> Iterator[None]:
    """Calls `look(name, module, inputs, output)` whenever a module of `kinds` has run.

    Mode and gradients are the caller's choice. No hook stays on `model` afterwards.

    Args:
        model: watched as a whole.
        look: what is called; it returns nothing.
        kinds: which modules are watched.
        before: call `look` when a module is about to run instead; `output` is None then.
    """
    handles = []
    try:
        for name, module in model.named_modules():
            if isinstance(module, kinds):
                register = _before if before else _after
                handles.append(register(module, partial(look, name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def outputs(
    model: nn.Module, names: Iterable[str], of: Callable[[Tensor], Tensor]
) -> Iterator[dict[str, Tensor]]:
    """What `of` makes of the outputs of the modules `names`, by name, at the latest pass.

    It is made at once: a layer that follows may work in place. Gradients flow through it. No hook
    stays on `model` afterwards.
    """
    seen: dict[str, Tensor] = {}

    def look(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        seen[name] = of(output)

    handles = [_after(model.get_submodule(name), partial(look, name)) for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.enable_grad()
def traced(
    model: nn.Module,
    shape: tuple[int, int, int],
    look: Look,
    kinds: tuple[type[nn.Module], ...] = (nn.Module,),
) -> None:
    """Passes one black image (C, H, W) through a frozen copy of `model`, `watched` by `look`.

    The image wants a gradient, so that every output knows what it was computed from.
    """
    copy = frozen_copy(model)
    device = next(model.parameters()).device
    with watched(copy, look, kinds):
        copy(torch.zeros(1, *shape, device=device, requires_grad=True))


def _after(module: nn.Module, look: Callable[..., None]) -> RemovableHandle:
    return module.register_forward_hook(look)


def _before(module: nn.Module, look: Callable[..., None]) -> RemovableHandle:
    return module.register_forward_pre_hook(lambda module, inputs: look(module, inputs, None))
