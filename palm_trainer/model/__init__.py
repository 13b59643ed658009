"""The multi-task model: encoders, heads, checkpoints and downloads."""
