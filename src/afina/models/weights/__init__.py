"""Weight files of a backbone, read one tensor at a time. The package does not know addresses, heads or tasks."""
