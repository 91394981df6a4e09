"""The adapter store: names, immutable versions, aliases, an audit log. Knows adapters as files and manifests, no model.

Starts without torch. Only `recompute` computes anything with an adapter.
"""
