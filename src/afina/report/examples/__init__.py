"""Evaluation texts that a report shows one by one: where methods disagree, and answers that are texts.

The package does not know how a report is written.
"""
