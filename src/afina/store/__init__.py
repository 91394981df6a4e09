"""The adapter store: names, immutable versions, aliases, an audit log. Starts without torch.

Knows adapters as files and manifests. It knows no models: only `recompute`, `intake.merging` and
`intake.saved_classifiers` compute with an adapter.
"""
