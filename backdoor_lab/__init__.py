"""backdoor_lab: makes backdoored image classifiers, purifies them, and reports what that cost."""

__version__ = "0.1.0"
