"""Pretrained models by name: cached, verified and usable offline."""
