"""The command line, `diracx-task-run`: how do people run, inspect and steer tasks?"""

from __future__ import annotations

import sys
from importlib import import_module

_BROKEN_INSTALLATION = 70
"""`ExitCode.BUG`, whose module may be one that cannot be imported."""


def main() -> None:
    """Run the command line of this process.

    The application is imported only here: where files of DiracX's own diracx-tasks lie over some of ours, its import
    fails, and one line says so.
    """
    try:
        app = import_module("diracx.tasks.cli.app")
    except ImportError as error:
        # Only now, since it reads the metadata of distributions, which costs more than the whole start.
        installation = import_module("diracx.tasks.installation")
        problem = installation.mixed_installation() or installation.incomplete_installation()
        if problem is None:
            raise
        print(f"error: {problem}; {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(_BROKEN_INSTALLATION)
    app.main()
