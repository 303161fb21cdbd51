"""What stands around a task: one job, its parts and their checks, a grid. What Hydra calls loads without torch."""
