"""The adapter store: names, immutable versions, aliases, an audit log. Starts without torch.

Knows adapters as files and manifests. It knows no models: only `recompute` computes with an adapter.
"""
