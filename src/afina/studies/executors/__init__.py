"""Executors: where runs and trials are executed, such as the nodes of a Ray cluster.

An executor does not know what a study is, and changes no digest.
"""
