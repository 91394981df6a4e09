"""The server of an engine: clients with keys, requests in batches, several protocols. Knows no training and no study.

`running` is the door, `http` the web. `queue`, which computes nothing and speaks no protocol, is apart from what does.
"""
