"""From a model to an artifact: read, rewrite, write the weights, generate code."""
