"""The multi-task model: encoders, heads and checkpoints."""
