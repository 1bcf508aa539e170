"""The declaration of the command `dashboard`."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from diracx.tasks.cli.options import Number, declared, log_option, runs, server_options


@declared("dashboard")
@click.option(
    "--port",
    type=Number(0, 65535),
    metavar="PORT",
    envvar="DIRACX_TASKS_DASHBOARD_PORT",
    show_envvar=True,
    help="The port to listen on; 8225 by default, or a free port if it is taken. 0 takes a free port.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="HOST",
    envvar="DIRACX_TASKS_DASHBOARD_HOST",
    show_envvar=True,
    help="The address to listen on. One that other machines reach needs --token-file or --user-header.",
)
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A file with the token that a browser has to know, 16 characters or more. Or "
    "DIRACX_TASKS_DASHBOARD_TOKEN holds the token itself. Without both, a token is made at each start.",
)
@click.option(
    "--user-header",
    metavar="NAME",
    help="The header in which a reverse proxy names its user, e.g. X-Remote-User. No token is asked for then.",
)
@click.option(
    "--proxy",
    "proxies",
    metavar="ADDRESS",
    multiple=True,
    help="The address of the proxy whose --user-header is believed; repeatable. 127.0.0.1 and ::1 by default.",
)
@click.option(
    "--operator",
    "operators",
    metavar="NAME",
    multiple=True,
    help="A user of the proxy who may act; repeatable. Without it, all may who are let in.",
)
@click.option(
    "--allowed-host",
    "hosts",
    metavar="NAME",
    multiple=True,
    help="A further name under which browsers reach the dashboard, e.g. that of the proxy; repeatable.",
)
@click.option(
    "--root-path",
    default="",
    metavar="PATH",
    help="The path under which a proxy shows the dashboard, e.g. /diracx-tasks.",
)
@click.option("--read-only", is_flag=True, help="Show, and change nothing.")
@click.option("--stop-with-input", is_flag=True, hidden=True, help="Stop when standard input ends.")
@log_option("info")
@server_options
@runs("dashboard")
def dashboard() -> None:
    """Show the mesh in a browser, and steer it.

    The command prints a link with a token, and serves until Ctrl-C. Queues can be paused, tasks cancelled, dead letters
    replayed, and so on, each after a confirmation; with an observer's access, or --read-only, the pages only show.

    It needs the extra `dashboard`: pip install 'diracx-tasks[dashboard]'.
    """
