"""Optimizers, schedules of the learning rate, and the moving average of weights."""
