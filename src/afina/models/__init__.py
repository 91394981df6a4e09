"""Backbones, classifiers, objectives, verbalizers and saved adapters; faster kernels in `kernels/`.

The package does not know tasks, methods or runs.
"""
