"""Configuration of a training: TOML to a checked `Config`."""
