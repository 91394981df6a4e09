"""Code that decides which version of a model answers: production, canaries, shadows, golden tests, preloading."""
