"""`python -m afina` is the command line."""

from afina.cli import main

main()
