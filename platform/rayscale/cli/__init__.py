"""The command line: ``rayscale COMMAND``.

Each command's body imports what it needs, so that ``rayscale --help`` stays instant. With ``--json`` nothing
but the JSON goes to standard output; progress and errors go to standard error.

Exit codes: 0 complete, 1 nothing could be done, 2 wrong usage, 3 some items failed, 130 Ctrl-C, 143 SIGTERM.
"""

from rayscale.cli.app import main

__all__ = ["main"]
