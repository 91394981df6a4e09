"""The shipped studies, TOML files read by the same code as any other."""
