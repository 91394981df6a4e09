"""A pretrained model, what stands on it and what is saved of it. Knows no task, no way of adapting and no run."""
