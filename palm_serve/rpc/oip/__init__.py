"""The Open Inference Protocol v2 with Triton's extensions, over the same models as `palm_serve.v1`."""
