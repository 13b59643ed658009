"""Training: the loop, batch sources, mixing, loss balancing, optimization and regularization."""
