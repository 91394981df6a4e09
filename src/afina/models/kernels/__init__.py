"""Faster computations of a model's parts with the same results. Knows layers; does not know models or methods."""
