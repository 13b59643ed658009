"""Training: the loop, batch sources, mixing, loss balancing, optimization and regularization."""

DEFAULT_PATIENCE = 600
"""Seconds of silence after which one of several processes counts as lost. Here since `--help` loads no torch."""
