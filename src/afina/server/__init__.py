"""The server of an engine: authentication, batches, several protocols. Knows no training and no study.

`routes` declares the paths, `http` has the application and the gate before it, `protocols` answers the routes, `core`
accepts requests, `versions` says which version answers, `line` has the fair queue and the computing thread, and
`running` starts and ends the server.
"""
