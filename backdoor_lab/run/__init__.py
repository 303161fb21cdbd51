"""What stands around a task: one job, its parts and their checks, a grid. Loads without torch."""
