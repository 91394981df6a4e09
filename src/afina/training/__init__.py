"""Training sessions: from a classifier, a method and batches to trained weights. Does not know tasks or studies."""
