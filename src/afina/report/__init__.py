"""Facts in words, tables, plots and pages. Reads records and recommendations; nothing below knows that it is there.

Starts without torch.
"""
