"""From a trained model to a bundle: one graph, proven to answer as the model does."""
