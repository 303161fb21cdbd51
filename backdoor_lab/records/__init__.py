"""What runs leave: one typed result each, from which all tables are made. Loads without torch."""

from backdoor_lab.records.collect import collect, mean_sd, with_result
from backdoor_lab.records.inspection import Change, Evidence, Inspection, Planted, Rule
from backdoor_lab.records.record import (
    Cost,
    MadeFrom,
    Record,
    Spent,
    forget_failure,
    read_failure,
    read_record,
    written,
)

__all__ = [
    "Change",
    "Cost",
    "Evidence",
    "Inspection",
    "MadeFrom",
    "Planted",
    "Record",
    "Rule",
    "Spent",
    "collect",
    "forget_failure",
    "mean_sd",
    "read_failure",
    "read_record",
    "with_result",
    "written",
]
