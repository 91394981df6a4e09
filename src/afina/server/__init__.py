"""The server of an engine: authentication, batches, several protocols. Knows no training and no study.

`running` starts and ends the server, `http` has routes and protocols, `core` accepts requests, and `line` has the fair
queue and the computing thread.
"""
