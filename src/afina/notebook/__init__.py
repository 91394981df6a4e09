"""What a notebook shows while runs go on. Knows IPython where a kernel has loaded it, and no command line."""
