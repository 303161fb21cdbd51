"""Imported: a classifier that somebody handed over, read without trusting a byte of it.

`imported.py` is the story: `opening.py` opens the file in a child process, `quarantine.py`, where
`reading.py` takes the tensors. `screening.py` and `archive.py` look before anything is loaded,
`foreign.py` names what is no file of tensors. `namings.py` and `layout.py` tell which weight is
which, `zoo.py` which architectures fit, `told.py` and `statements.py` what a file says of itself,
`trial.py` and `order.py` whether the model works on the images and its classes stand in order.
"""

from backdoor_lab.victims.imported.imported import Imported

__all__ = ["Imported"]
