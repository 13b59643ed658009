"""Adapters of custom backbones, heads and readers to the engine."""
