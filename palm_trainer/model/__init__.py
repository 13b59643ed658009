"""The multi-task model: encoders, heads, checkpoints and downloads."""

import os

# Read when huggingface_hub and transformers are imported. The first stops their reports on use. The second stops the
# request to convert a model that transformers sends to the Hub after it loaded a pickle.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
