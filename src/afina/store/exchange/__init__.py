"""Export and import: bundles, saved classifiers, merged models, the Hub. Every imported file is inspected first."""
