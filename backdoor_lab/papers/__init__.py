"""What the four papers print: facts, and which of them look wrong. Loads without torch."""

from backdoor_lab.papers.comparison import comparison
from backdoor_lab.papers.printed import Printed, printed

__all__ = ["Printed", "comparison", "printed"]
