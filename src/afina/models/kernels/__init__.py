"""Faster computations of a model's layers with the same results. The package does not know models or methods."""
