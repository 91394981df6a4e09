"""Backbones, classifiers, objectives, verbalizers and saved adapters; faster kernels in `kernels/`.

`afina.models` does not know tasks, adaptation methods or runs.
"""
