"""Backbones, heads and readers that users write, matched with the engine by the names that they declare."""
