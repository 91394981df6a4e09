"""Runs, studies, tuning, recommendations and their costs: what the user asked for and what was measured.

The package holds requests and facts. It does not know the words, tables or pages that present them: `report` makes
these. Only the modules that execute a run or forecast its cost import torch.
"""
