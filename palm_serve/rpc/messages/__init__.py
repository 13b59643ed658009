"""Conversion between the messages of palm_serve.v1 and the pipeline."""
