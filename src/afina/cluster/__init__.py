"""Cluster: the machines of a Ray cluster: connecting to it, and facts about its nodes.

Studies and the server use this package, which does not know what is executed on a node.
"""
