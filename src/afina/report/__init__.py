"""Facts in words, tables, plots and pages: `Report.of(results)`. Reads what studies leave; nothing below knows of it.

Starts without torch.
"""
