"""Adapters and texts to labels, figures and probes. Knows no training, no run and no study."""
