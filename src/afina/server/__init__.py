"""The HTTP server, which answers requests with the adapters of an engine.

The package imports no code of training or studies: it does not know how adapters are trained.

- `routes`: the table of all paths.
- `http`: the FastAPI application and its middleware.
- `protocols`: the functions that answer the routes.
- `core`: accepts requests.
- `versions`: decides which version of an adapter answers a request.
- `line`: the fair queue and the computing thread.
- `sockets`: binds a host and a port.
- `running`: starts and ends the server.
"""
