"""The server as a Ray Serve deployment, whose replicas on a Ray cluster run the same HTTP application.

- `application`: a replica of the server.
- `lifecycle`: starts, watches and ends the deployment.
- `proxy`: middleware in the processes of Ray Serve's HTTP proxies, which repeats requests whose replica died.
- `routing`: the request router, which prefers replicas that have the request's adapter in memory.
- `autoscaling`: the policy for the number of replicas.

`proxy`, `routing` and `autoscaling` do not import torch or the engine.
"""
