"""Which layers of a model read what, told from autograd's graph of one image."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from torch import Tensor, nn

from backdoor_lab.models.tracing import traced

BETWEEN = (
    "Relu", "Hardtanh", "Hardswish", "Silu", "MaxPool2D", "AvgPool2D", "AdaptiveAvgPool2D",
    "MkldnnAdaptiveAvgPool2D", "Mean", "View", "UnsafeView", "ReshapeAlias", "Clone",
)  # fmt: skip
"""What autograd calls the steps that keep channels apart and in order."""


class Graph:
    """The convolutions, BatchNorms and linear layers of a model, and the nodes around them.

    Attributes:
        inputs: the node of what entered each layer, by name; where it ran twice, the last time.
        outputs: the node of what came out.
        names: the layer that each of these is of, also where it ran twice.
        readers: the nodes that read each node's result.
        entered: the layers that each node entered.
    """

    def __init__(self, model: nn.Module, shape: tuple[int, int, int]) -> None:
        self.inputs: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}
        self.names: dict[Any, str] = {}
        self.readers: dict[Any, list[Any]] = {}
        traced(model, shape, self._look)
        self.entered: dict[Any, list[str]] = {}
        for name, node in self.inputs.items():
            self.entered.setdefault(node, []).append(name)

    def _look(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if not name:  # the model itself, last
            self._follow(output.grad_fn)
        elif isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
            self.inputs[name], self.outputs[name] = inputs[0].grad_fn, output.grad_fn
            self.names[output.grad_fn] = name

    def _follow(self, end: Any) -> None:
        seen, waiting = {end}, [end]
        while waiting:
            node = waiting.pop()
            for source, _ in node.next_functions:
                if source is None:
                    continue
                self.readers.setdefault(source, []).append(node)
                if source not in seen:
                    seen.add(source)
                    waiting.append(source)

    def layers_behind(self, node: Any) -> list[str] | None:
        """Names of the layers that read `node`, if nothing else does; None if something does."""
        found = list(self.entered.get(node, []))
        ends = {self.outputs[name] for name in found}
        for reader in self.readers.get(node, []):
            if reader in ends:
                continue
            further = self.layers_behind(reader) if _between(reader) else None
            if further is None:
                return None
            found += further
        return found

    def layers_before(self, name: str, among: Container[str]) -> list[str]:
        """Which layers `among` reach layer `name` past no other of them, in the order they ran."""
        ends = {node: layer for node, layer in self.names.items() if layer in among}
        found, seen, waiting = set(), set(), [self.inputs.get(name)]
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if node in ends:
                found.add(ends[node])
            else:
                waiting.extend(source for source, _ in node.next_functions)
        return [layer for layer in self.outputs if layer in found]


def _between(node: Any) -> bool:
    return type(node).__name__.partition("Backward")[0].removesuffix("WithIndices") in BETWEEN
