"""Read text tasks and make packed batches of tokens from their texts. The package does not import models or methods."""
