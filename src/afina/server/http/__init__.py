"""HTTP: routes, authentication, limits, and the protocols of clients (`huggingface`, `kserve`, `vllm`, `native`).

Only this package imports FastAPI and starlette. A protocol turns JSON into texts, and answers into JSON. This package
does not know adapters and computes nothing.
"""
