"""Running graphs: the only importer of onnxruntime."""
