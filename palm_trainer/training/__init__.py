"""The training loop: sources, mixing, balancing, optimization and regularization."""
