"""Bundles: the self-contained directories that training exports and the server loads.

manifest.py    schema of `manifest.json`
loader.py      reads and verifies a bundle
span_types.py  name, role and group of spans, and their labels in tags
golden.py      golden examples: inputs with the answers of the export
"""
