"""Answer requests for many adapters with one frozen model, in mixed batches. Does not know training or studies.

`engine` is the entry point; the other modules are used by it.
"""
