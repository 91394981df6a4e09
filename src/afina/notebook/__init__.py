"""The progress display of a notebook, by IPython if a kernel has loaded it. The package knows no command line."""
