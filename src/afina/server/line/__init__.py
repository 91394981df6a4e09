"""The fair queue of work items (tokenized texts, prompts and golden tests), and the one thread that computes them.

The package imports no code of protocols and of the store.
"""
