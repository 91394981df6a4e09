"""The web: protocols, routes, who may pass. Owns FastAPI and uvicorn; knows no adapter and computes nothing."""
