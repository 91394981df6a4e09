"""The adapter store: names, immutable versions, aliases, an audit log. Starts without torch.

Knows adapters as files and manifests. It knows no models: only `recompute`, `exchange.merging` and
`exchange.saved_classifiers` compute with an adapter.
"""
