"""Generation of text by a language model: greedy search, sampling or beam search, grammars, and streamed answers.

The package imports no code of methods, adapters or files.
"""
