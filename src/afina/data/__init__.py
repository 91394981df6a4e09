"""Tasks, and the way of their texts to packed batches of tokens. Knows no model and no method."""
