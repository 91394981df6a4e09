"""Parts of a model computed in cheaper ways that give the same result. Knows layers, not what they belong to."""
