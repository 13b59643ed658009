"""The Open Inference Protocol v2 with Triton's extensions, for the same models as `palm_serve.v1`."""
