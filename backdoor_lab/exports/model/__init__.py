"""The purified model as files for use outside.

`purified_model.py` writes them, `card.py` says what they are, `graph.py` makes the ONNX one.
"""

from backdoor_lab.exports.model.purified_model import PurifiedModel

__all__ = ["PurifiedModel"]
