"""Training of many language tasks on one encoder, and export to one ONNX graph."""
