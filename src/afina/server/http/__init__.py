"""HTTP: the application, authentication, limits, bodies, and the threads in which requests call the core.

Only this package and `protocols` import FastAPI and starlette. Does not know adapters and computes nothing.
"""
