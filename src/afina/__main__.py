"""Run the command line as `python -P -m afina`."""

from afina.cli import main

main()
