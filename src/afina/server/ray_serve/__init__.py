"""The server as replicas on a Ray cluster: a Ray Serve deployment of the same HTTP application.

`application` is a replica, `lifecycle` starts and ends the deployment. In the processes of Serve's HTTP proxies,
`proxy` repeats requests whose replica died, and `routing` prefers replicas that have the adapter in memory. `proxy`,
`routing` and `autoscaling` do not import torch or the engine. The package does not know how answers are computed.
"""
