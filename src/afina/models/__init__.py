"""Backbones, classifiers, objectives, verbalizers and saved adapters; faster kernels in `kernels/`.

This package does not know tasks, methods or runs.
"""
