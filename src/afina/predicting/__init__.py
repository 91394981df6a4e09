"""From adapters and texts to predictions, metrics and probes. Does not know training, runs or studies."""
