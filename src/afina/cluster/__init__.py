"""Cluster: the machines of a Ray cluster: connecting to it, facts about its nodes, and files in pieces.

This package does not know what is executed on a node: it knows no study and no server.
"""
