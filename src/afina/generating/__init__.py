"""A language model generates answers: greedy search, sampling or beam search, guided by a grammar, as a stream.

The package knows no methods, adapters or files.
"""
