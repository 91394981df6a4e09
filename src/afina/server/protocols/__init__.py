"""The protocols of clients: a module each, with its request bodies, responses and routes (`server/routes.py`).

A protocol turns JSON into texts, and answers into JSON. The package does not know adapters and computes nothing.
"""
