"""Runs, studies, tuning, recommendations and their costs: the user's requests, and the results that were measured.

The sentences, tables and pages that present results are made by `report`, which this package does not know. Only the
modules that execute a run or forecast its cost import torch.
"""
