"""Proof of a bundle: an engine must answer as the trained model did, on every machine by the rules of the export.

predictor.py    tokenizer, engine and decoders of a comparison
comparison.py   differences between an engine and the trained model, and the rules for them
shapes.py       random shapes and token ids
recording.py    records what the trained model answers, for `proof.npz`
proving.py      compares an engine with `proof.npz`
outcomes.py     outcomes of proofs, kept for each machine
candidates.py   combinations that a machine can try
selection.py    the engine that serves a bundle
"""
