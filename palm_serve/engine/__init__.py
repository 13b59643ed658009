"""Running graphs: the only importer of onnxruntime."""

import os

# ONNX Runtime's official builds report usage to their maker unless this is set before the first import; whoever wants
# that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
