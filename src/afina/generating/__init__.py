"""A language model writes answers: tokens by greedy search, sampling or beams, guided by a grammar, as a stream.

Knows no methods, adapters or files.
"""
