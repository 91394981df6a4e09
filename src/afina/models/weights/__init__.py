"""Weight files of a backbone, which are read one tensor at a time.

`afina.models.weights` does not know addresses, heads or tasks.
"""
