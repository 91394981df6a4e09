"""Train a classifier by a method on batches. The package does not know tasks or studies."""
