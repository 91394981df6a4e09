"""Tasks, and how their texts become packed batches of tokens. The package does not know models or methods."""
