"""The engine, which answers requests for many adapters with one frozen model. It does not know how they are trained."""
