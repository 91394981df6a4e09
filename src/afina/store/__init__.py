"""The adapter store: it keeps adapters under names, in immutable versions with aliases, and has an audit log.

The package can be imported without torch. A store keeps adapters as files and manifests, and does not know models: only
the modules `recompute`, `exchange.merging` and `exchange.saved_classifiers` load models and compute with an adapter.
"""
