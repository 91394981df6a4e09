"""Executors: the machines on which runs and tuning trials are executed, such as the nodes of a Ray cluster.

An adapter has the same digest with every executor. Executors do not know studies (`afina.studies.study`).
"""
