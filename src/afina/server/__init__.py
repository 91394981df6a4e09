"""The server of an engine: authentication, batches, several protocols. The package knows no training and no study.

`routes` declares the paths, `http` has the application and its middleware, `protocols` answers the routes, `core`
accepts requests, `versions` says which version of an adapter answers, `line` has the fair queue and the computing
thread, and `running` starts and ends the server.
"""
