"""Weight files of a backbone, read one tensor at a time. Does not know addresses, heads or tasks."""
