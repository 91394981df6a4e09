"""Exchange: bundles, saved classifiers, merged models, the Hub. Every import is inspected. Knows no database."""
