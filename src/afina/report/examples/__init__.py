"""Evaluation texts that a report shows one by one: texts on which methods disagree, and answers that are texts.

The package `afina.report.examples` does not know (import) the modules that write a report.
"""
