"""The fair queue of works (accepted texts, prompts and golden tests), and the one thread that computes the works.

The package imports no code of protocols and of the store.
"""
