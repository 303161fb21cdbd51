"""What stands around a task: a job, its parts and checks, a grid. Hydra loads it without torch."""
