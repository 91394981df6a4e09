"""Run the command line as `python -m afina`."""

from afina.cli import main

main()
