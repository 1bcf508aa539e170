"""The command line, `diracx-task-run`. One module for each command, loaded when it is run."""

from diracx.tasks.cli.app import main

__all__ = ["main"]
