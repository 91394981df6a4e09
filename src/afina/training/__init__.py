"""A training session: a classifier, a method and batches, to trained weights. Knows no task, no run and no study."""
