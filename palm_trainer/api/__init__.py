"""Python API of PALM: trainers and their components."""

import palm_trainer.model  # noqa: F401  it switches telemetry off, before `backbone` imports transformers
