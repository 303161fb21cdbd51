"""BTI-DBF: a generator that moves what is left of the features when the benign ones are held.

`decoupling` finds the benign features and trains the generator, `bti_dbf` asks where it leads.
"""

from backdoor_lab.detectors.bti_dbf.bti_dbf import BTIDBF

__all__ = ["BTIDBF"]
