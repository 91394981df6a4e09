"""Plots of arms: comparisons of methods, and predictions. The package does not know pages or files.

docs/reference/figures.md defines what each plot shows. Every plot has a caption and an alternative text. A method has
the same colour and marker in all plots. Only this package imports matplotlib.
"""
