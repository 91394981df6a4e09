"""Answer requests for many adapters with one frozen model, in mixed batches. The package does not know training.

`engine.py` has the entry point, the class Engine, which uses the other modules.
"""
