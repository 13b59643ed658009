"""Examples: formats, targets, tokenization into batches, sampling and conversion."""
