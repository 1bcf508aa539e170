"""The command line, `diracx-task-run`: how do people run, inspect and steer tasks?"""

from diracx.tasks.cli.app import main

__all__ = ["main"]
