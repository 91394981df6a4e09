"""The protocols that clients use, such as OpenAI's: one or more modules each, with request bodies and responses.

A protocol's functions answer the routes of `server/routes.py`: they read texts from JSON, and write answers as JSON.
The package imports no code of adapters and models.
"""
