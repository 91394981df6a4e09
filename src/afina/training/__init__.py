"""Train a classifier by an adaptation method on batches of texts.

`afina.training` does not know tasks or studies.
"""
