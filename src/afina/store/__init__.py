"""The adapter store: names, immutable versions, aliases and an audit log. The package loads without torch.

A store keeps adapters as files and manifests, and does not know models: only `recompute`, `exchange.merging` and
`exchange.saved_classifiers` load models and compute with an adapter.
"""
