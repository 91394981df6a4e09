"""Generation of text by a language model: greedy search, sampling or beam search, grammars, and streamed answers.

The package imports no code of adapters or files, and does not know methods such as LoRA.
"""
