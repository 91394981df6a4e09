"""Export and import adapters: bundles, saved classifiers, merged models, the Hub. Every imported file is inspected."""
