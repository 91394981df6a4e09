"""The fair queue of accepted texts and tests, called works, and the one thread that computes them.

The package knows no protocol and no store.
"""
