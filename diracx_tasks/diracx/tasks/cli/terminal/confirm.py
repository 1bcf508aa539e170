"""Asking before what cannot be undone."""

from __future__ import annotations

import sys

import rich_click as click


def confirmed(question: str, undone: str) -> bool:
    """Ask on standard error.

    Args:
        undone: What was not done, where nobody is there to answer.

    Raises:
        click.UsageError: Standard input ends without an answer.
        click.Abort: Ctrl-C.
    """
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        # The cursor stands behind the question.
        print(file=sys.stderr)
        if sys.stdin.isatty():
            raise
        raise click.UsageError(f"nobody is there to be asked, and {undone}; say --yes") from None
