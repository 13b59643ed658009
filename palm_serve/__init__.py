"""Serving of PALM bundles: raw text in, typed answers out. Importing this package loads nothing heavy."""
