"""Plots of a report: comparisons of methods, predictions, and the course of training, as SVG markup.

docs/reference/figures.md defines what each plot shows. Every plot has a caption and an alternative text. A method has
the same colour and marker in all plots of a report. No other package of afina imports matplotlib. The package does not
know (import) the modules that write pages or files.
"""
