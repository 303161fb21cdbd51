"""How models are judged: scores, what a trigger looks like, what a model costs."""
