"""The engine, which answers requests for many adapters with one frozen model in mixed batches.

The entry point is the class Engine in `engine.py`, which uses the other modules. The package imports no training code:
it does not know how adapters are trained.
"""
