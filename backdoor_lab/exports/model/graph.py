"""A classifier as an ONNX graph, whose answers are compared with its own."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch

from backdoor_lab.errors import ConfigError
from backdoor_lab.models import Classifier

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-3  # of logits, relative to the largest
TRIED = 3  # images; another number than the graph is traced with


def require_onnx() -> None:
    """Refuse where a package is missing.

    Raises:
        ConfigError: says which.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"export.onnx=true needs {', '.join(missing)} (pip install '.[onnx]'); allowed: false"
        )


def write_graph(file: Path, model: Classifier) -> None:
    """Write images (N, C, H, W) in [0, 1] to logits (N, classes) as a graph, for any N.

    Raises:
        ConfigError: onnxruntime computes something else.
    """
    import onnxruntime

    model = model.cpu().float().eval()
    _, spec, *_ = model.blueprint
    images = torch.rand(TRIED, *spec.shape, generator=torch.Generator().manual_seed(0))
    with quiet():
        torch.onnx.export(
            model,
            (images[:2],),
            str(file),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    with torch.no_grad():
        wanted = model(images)
    apart = ((found - wanted).abs().max() / wanted.abs().max()).item()
    if not apart < TOLERANCE:
        file.unlink()
        raise ConfigError(
            f"export.onnx=true: onnxruntime's answers differ from the model's by {apart:.1e} of "
            "the largest; allowed: false"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Without the lines on each pass of the exporter, which no user can act on."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
