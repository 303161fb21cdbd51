"""The last feature map of a model, and what belongs to its channels."""

from __future__ import annotations

from torch import Tensor, nn

from backdoor_lab.models.stages import parted, stages


def prunable_map(model: nn.Module, channels: int) -> tuple[str, str]:
    """Names of (the last layer that makes a feature map, the layer behind that reads all of it).

    Raises:
        ValueError: there is none.
    """
    parts = parted(model, channels)
    if parts and getattr(model.get_submodule(parts[1][0]), "groups", 1) == 1:
        return parts[0][-1], parts[1][0]
    raise ValueError("model without a last feature map that one layer reads")


def last_stage(model: nn.Module, shape: tuple[int, int, int]) -> str | None:
    """The module that holds the convolutions of the last resolution and no others, if there is one.

    It is `layer4` of a ResNet, whose blocks are as wide as the map that they add up to.

    Args:
        model: read only.
        shape: (C, H, W) of an image.
    """
    last, reader = prunable_map(model, shape[0])
    wide = model.get_parameter(f"{last}.weight").shape[0]
    if wide != model.get_parameter(f"{reader}.weight").shape[1]:
        return None
    group = set(stages(model, shape)[-2])
    for name, module in model.named_modules():
        inside = {f"{name}.{inner}" for inner in convolutions(module)}
        if inside == group and last.startswith(f"{name}."):
            return name
    return None


def convolutions(module: nn.Module) -> list[str]:
    """Names of the convolutions inside `module`."""
    return [name for name, inner in module.named_modules() if isinstance(inner, nn.Conv2d)]


def entries(model: nn.Module, reader: str, stage: str | None, off: Tensor) -> dict[str, Tensor]:
    """Which entries of which parameters (bool, their shape) are to be zero, so that channels are.

    Args:
        model: read only.
        reader: the layer that reads the map; its columns go.
        stage: what makes the map, if it is to be pruned as well: of each convolution and BatchNorm
            in it that is as wide as the map, the same channels go.
        off: which channels of the map (C,), bool.
    """
    weight = model.get_parameter(f"{reader}.weight")
    chosen = {f"{reader}.weight": _along(off, 1, weight)}
    inside = model.get_submodule(stage).named_modules() if stage else ()
    for name, module in inside:
        width = getattr(module, "out_channels", getattr(module, "num_features", None))
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d) and width == len(off):
            for tensor, parameter in module.named_parameters(recurse=False):
                chosen[f"{stage}.{name}.{tensor}"] = _along(off, 0, parameter)
    return chosen


def _along(off: Tensor, axis: int, parameter: Tensor) -> Tensor:
    """`off` (C,) along an axis of `parameter`, the same for all others."""
    shape = [1] * parameter.dim()
    shape[axis] = len(off)
    return off.view(shape).expand(parameter.shape)
