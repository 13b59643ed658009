"""Component 1: from files to examples to batches."""
