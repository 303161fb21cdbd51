"""A static page of all results: `reports/index.html` and a page a run. Loads without torch."""

from backdoor_lab.reports.page.found import Found, Trouble, read_runs
from backdoor_lab.reports.page.write import write_page

__all__ = ["Found", "Trouble", "read_runs", "write_page"]
