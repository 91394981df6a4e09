"""Executors, which execute runs and tuning trials on this machine or on the nodes of a Ray cluster.

An adapter has the same digest with every executor. Executors do not know (import) studies (`afina.studies.study`).
"""
