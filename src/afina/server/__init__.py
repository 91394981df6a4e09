"""The server of an engine: authentication, batches, several protocols. Knows no training and no study.

`running` starts and ends the server, `http` has routes and protocols, `queue` the fair queue of texts. `queue` computes
nothing itself and knows no protocol.
"""
