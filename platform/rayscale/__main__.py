"""``python -m rayscale``: the command line without its script."""

from rayscale.cli import main

main()
