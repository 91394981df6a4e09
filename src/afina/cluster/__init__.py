"""Connect to a Ray cluster, and find facts about its nodes (machines).

Studies and the server use this package, which does not know what is executed on a node.
"""
