"""Between protobuf messages and the types of the pipeline."""
