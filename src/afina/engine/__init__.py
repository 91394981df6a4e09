"""The engine, which answers requests for many adapters with one frozen model, and imports no training code."""
