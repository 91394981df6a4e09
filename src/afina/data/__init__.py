"""Read text tasks, and make packed batches of tokens from their texts. This package does not know models or methods."""
