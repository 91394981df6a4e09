"""Code that decides which version of a model answers: production versions, canaries, shadows, golden tests, preloading.

Changes in the store are read at short intervals. The package imports no code of protocols.
"""
