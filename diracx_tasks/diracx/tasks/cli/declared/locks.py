"""The declarations of the commands of locks: `locks list` and `release`."""

from __future__ import annotations

import rich_click as click

from diracx.tasks.cli.options import declared, json_option, log_option, runs, server_options


@declared("list")
@json_option
@log_option("warning")
@server_options
@runs("locks.list")
def list_() -> None:
    """List the locks that are held, and the admissions of rate limiters in their current windows.

    A live holder renews its lock before the lock expires. The lock of a dead holder expires by itself.
    """


@declared("release")
@click.argument("key", metavar="KEY", help="The key, as `locks list` shows it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@log_option("warning")
@server_options
@runs("locks.release")
def release() -> None:
    """Take a lock away from its holder.

    The lock of a dead holder expires by itself. A live holder runs on until it next renews the lock, up to a third of
    the lock's time to live; then its task is cancelled, and tried again. Meanwhile another task may acquire the lock.
    The command waits up to 15 s for that, and ends with 75 if the task still runs.
    """
