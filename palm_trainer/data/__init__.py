"""Training data: file formats, targets, batches, sampling, augmentation and conversion."""
