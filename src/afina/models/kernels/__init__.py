"""Faster computations of a model's layers, with the same results except for rounding.

`afina.models.kernels` does not know models or adaptation methods.
"""
