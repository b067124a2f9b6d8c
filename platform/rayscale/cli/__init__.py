"""The command line: ``rayscale COMMAND``.

Each command's body imports what it needs, so that ``rayscale --help`` stays instant. With ``--json`` nothing
but the JSON goes to standard output; progress and errors go to standard error.

Exit codes: docs/exit-codes.md.
"""

from rayscale.cli.app import main, run

__all__ = ["main", "run"]
