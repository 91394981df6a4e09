"""The protocols of clients: one module each, with its requests, its answers and its routes (`server/routes.py`).

A protocol turns JSON into texts, and answers into JSON. It does not know adapters and computes nothing.
"""
