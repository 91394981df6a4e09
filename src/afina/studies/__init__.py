"""Runs, studies, tuning, recommendations and their costs: what the user asks for, and the results that are measured.

The package `afina.report` makes the sentences, tables and pages that present results; `afina.studies` does not know
(import) it. Of the modules of `afina.studies`, only those that execute a run or forecast its cost import torch.
"""
