"""`diracx-task-run dashboard`."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import secrets
import socket
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import rich_click as click

from diracx.tasks.cli.access import namespace_of, operator_connection
from diracx.tasks.cli.exit_codes import ExitCode
from diracx.tasks.cli.installed import installed_tasks
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.processes.children import stop_when_input_ends
from diracx.tasks.cli.processes.signals import StopSignals
from diracx.tasks.cli.terminal.output import say

logger = logging.getLogger("diracx.tasks.dashboard")

DEFAULT_PORT: Final = 8225
TOKEN_VARIABLE: Final = "DIRACX_TASKS_DASHBOARD_TOKEN"  # noqa: S105  # its name
END_SECONDS: Final = 5.0
"""The time from a signal until the process is ended by force."""
_LIBRARIES: Final = ("starlette", "uvicorn", "jinja2")
_MIN_TOKEN_CHARS: Final = 16
"""A shorter token could be guessed."""
_ROOT_PATH: Final = re.compile(r"(/[\w.~-]+)*", re.ASCII)
_HEADER: Final = re.compile(r"[A-Za-z0-9-]+", re.ASCII)


def command(
    *,
    port: int | None,
    host: str,
    token_file: Path | None,
    user_header: str | None,
    proxies: Sequence[str],
    operators: Sequence[str],
    hosts: Sequence[str],
    root_path: str,
    read_only: bool,
    stop_with_input: bool,
    access: Access,
) -> None:
    dashboard = _installed()
    if stop_with_input:
        stop_when_input_ends()
    given = _token(token_file)
    if not dashboard.is_loopback(host) and given is None and user_header is None:
        raise click.UsageError(
            f"--host {host} is reached from other machines: give --token-file FILE (or {TOKEN_VARIABLE}), or let a "
            "reverse proxy check its users and give --user-header NAME and --proxy ADDRESS"
        )
    settings = _settings(dashboard, host, given, user_header, proxies, operators, hosts, root_path, read_only)
    listening = _listen(dashboard, host, port)
    with listening:
        # A token of somebody's own is a secret that logs must not keep.
        asyncio.run(_serve(dashboard, settings, listening, host, read_only, given is None, access))


def missing_library() -> str | None:
    """The first library that the dashboard needs and that is not installed; None: all are. Nothing is imported."""
    return next((name for name in _LIBRARIES if not _is_installed(name)), None)


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ImportError:
        return False


def _installed() -> Any:
    """The package of the dashboard.

    Raises:
        click.UsageError: The libraries that it needs are not installed.
    """
    if (name := missing_library()) is not None:
        raise click.UsageError(
            f"the dashboard needs {name}, which is not installed: pip install 'diracx-tasks[dashboard]'"
        )
    # An extra that need not be installed.
    return import_module("diracx.tasks.dashboard.serving")


def _token(file: Path | None) -> str | None:
    """The token that was given; None: none was.

    Raises:
        click.BadParameter: The file cannot be read, or the token is too short or no text.
    """
    if file is None and TOKEN_VARIABLE not in os.environ:
        return None
    hint = TOKEN_VARIABLE if file is None else "--token-file"
    try:
        text = os.environ[TOKEN_VARIABLE] if file is None else file.read_text("utf-8")
    except (OSError, UnicodeError) as error:
        raise click.BadParameter(str(error), param_hint=[hint]) from None
    token = text.strip()
    if len(token) < _MIN_TOKEN_CHARS or not token.isprintable():
        raise click.BadParameter(
            f"the token has to be one line of {_MIN_TOKEN_CHARS} characters or more", param_hint=[hint]
        )
    return token


def _settings(
    dashboard: Any,
    host: str,
    given: str | None,
    user_header: str | None,
    proxies: Sequence[str],
    operators: Sequence[str],
    hosts: Sequence[str],
    root_path: str,
    read_only: bool,
) -> Any:
    if not _ROOT_PATH.fullmatch(root_path):
        raise click.BadParameter(f"{root_path!r} is not a path such as /diracx-tasks", param_hint=["--root-path"])
    if (first := root_path.split("/")[1] if root_path else "") in dashboard.TAKEN:
        raise click.BadParameter(
            f"/{first} is a path of the dashboard's own; choose one such as /diracx-{first}", param_hint=["--root-path"]
        )
    if user_header is not None and not _HEADER.fullmatch(user_header):
        raise click.BadParameter(f"{user_header!r} is not the name of a header", param_hint=["--user-header"])
    for option, needed in (("--proxy", proxies), ("--operator", operators)):
        if needed and user_header is None:
            raise click.UsageError(f"{option} goes with --user-header")
    names = frozenset(name.lower() for name in hosts)
    loopback = dashboard.is_loopback(host)
    return dashboard.AccessSettings(
        token=secrets.token_urlsafe(24) if given is None and user_header is None else given,
        user_header=user_header,
        proxies=frozenset(proxies) or dashboard.PROXIES,
        operators=frozenset(operators),
        acts=not read_only,
        hosts=dashboard.LOOPBACK_NAMES | names | {host.lower()} if loopback or names else None,
        root_path=root_path,
    )


def _listen(dashboard: Any, host: str, port: int | None) -> socket.socket:
    """Listen on the port, or on the default one, or where that is taken on a free one.

    Raises:
        click.BadParameter: The address cannot be bound.
    """
    try:
        try:
            return _bound(dashboard, host, DEFAULT_PORT if port is None else port)
        except OSError as error:
            if port is not None or error.errno != errno.EADDRINUSE:
                raise
            return _bound(dashboard, host, 0)
    except OSError as error:
        cause = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else str(error)
        raise click.BadParameter(f"{host}:{port or DEFAULT_PORT}: {cause}", param_hint=["--port"]) from None


def _bound(dashboard: Any, host: str, port: int) -> socket.socket:
    listening: socket.socket = dashboard.listen(host, port)
    return listening


async def _serve(
    dashboard: Any, settings: Any, listening: socket.socket, host: str, read_only: bool, told: bool, access: Access
) -> None:
    signals = StopSignals(end_after=END_SECONDS, end_code=ExitCode.DONE)
    signals.cancel_this_task()
    namespace = namespace_of(access)
    stop = asyncio.Event()
    with signals.handled():
        try:
            async with operator_connection(access, "dashboard") as connection:
                mesh = dashboard.Mesh(connection, namespace, installed_tasks(), read_only=read_only)
                signals.on_signal(stop.set)
                async with dashboard.serving(mesh, settings, listening):
                    say(_address(settings, host, listening.getsockname()[1], told=told))
                    await stop.wait()
                logger.info("the dashboard has ended")
        except asyncio.CancelledError:
            if signals.received is None:
                raise


def _address(settings: Any, host: str, port: int, *, told: bool) -> str:
    """Where the dashboard is. `told`: with its token, which was made for this run alone."""
    name = f"[{host}]" if ":" in host else host
    top = f"http://{name}:{port}{settings.root_path}"
    if settings.token is None:
        return f"the dashboard is on {top}/ for the users of the proxy"
    if not told:
        return f"the dashboard is on {top}/login"
    return f"the dashboard is on {top}/login?token={quote(settings.token, safe='')}"
