"""The progress display of a notebook. It knows IPython if a kernel has loaded it; it does not know the command line."""
