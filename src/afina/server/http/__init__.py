"""HTTP: the application, authentication, limits, bodies, and the threads in which requests call the core.

Only this package and `protocols` import FastAPI and starlette. The package does not know adapters and computes nothing.
"""
