"""The server's HTTP code: the FastAPI application, authentication, limits, request bodies and the thread pool.

Only this package and `protocols` import FastAPI and starlette. This package imports no code of adapters and models.
"""
