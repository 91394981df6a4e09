"""From adapters and texts to predictions, metrics and probes. The package does not know training, runs or studies."""
