"""The web: routes, who may pass, and what clients send and expect (`huggingface`, `kserve`, `vllm`, `native`).

Owns FastAPI and starlette; knows no adapter and computes nothing. A protocol is JSON to texts, and answers to JSON.
"""
