"""Tokenizers: from vocabulary files, of pretrained encoders, and learnt from text."""
