"""`diracx-task-run status --check`: one look at a mesh for a monitor, with the exit codes of Nagios.

0 `OK: ...`; 1 `WARNING: ...`, if no alert is critical; 2 `CRITICAL: ...`; 3 `UNKNOWN: ...`, with no server or no
permission.

A server that answers and has no JetStream, a namespace that is not there, and a mesh of which nothing has a leader or
answers, though the connection is up, are critical: no task runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import IntEnum

import msgspec
import rich_click as click

from diracx.tasks.cli.access import mesh_expected, namespace_of, operator_connection
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.output import print_document, print_text
from diracx.tasks.cli.terminal.printable import one_line
from diracx.tasks.plumbing.exceptions import ServerError, ServerUnavailableError, near_names, shown
from diracx.tasks.plumbing.jetstream.errors import (
    JetStreamUnavailableError,
    NoLeaderError,
    NoRespondersError,
    PermissionDeniedError,
    RequestTimeoutError,
)
from diracx.tasks.plumbing.operations.alerts import LEVELS, Alert
from diracx.tasks.plumbing.operations.status import StatusReader


class State(IntEnum):
    """The state of a mesh, and the exit code."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The document of `status --check --json`: these fields, in this order."""

    state: str
    """`OK`, `WARNING`, `CRITICAL` or `UNKNOWN`."""
    text: str
    """The first line without the state."""
    alerts: list[Alert]
    """The most important first, without those that are ignored."""
    ignored: list[Alert]


def check(*, ignore: Sequence[str], as_json: bool, access: Access) -> State:
    """Look once, print what is wrong, and return the exit code.

    Args:
        ignore: The names of alerts that do not count.

    Raises:
        click.BadParameter: There is no alert of such a name.
    """
    for name in ignore:
        if name not in LEVELS:
            near = near_names(name, LEVELS)
            known = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(LEVELS)}"
            problem = f"no alert has the name {shown(name)!r}; {known}"
            raise click.BadParameter(problem, param_hint=["--ignore"])
    state, found = asyncio.run(_look(access, frozenset(ignore)))
    if as_json:
        print_document(found)
    else:
        lines = [f"{found.state}: {_first_line(found.text)}"]
        lines += [f"{alert.level.upper()}: {one_line(_sentence(alert))}" for alert in found.alerts[1:]]
        print_text("\n".join(lines))
    return state


async def _look(access: Access, ignore: frozenset[str]) -> tuple[State, Check]:
    namespace, is_up = namespace_of(access), False
    try:
        async with operator_connection(access, "status") as connection:
            try:
                async with mesh_expected(connection, namespace):
                    status = (await StatusReader(connection, namespace).read()).status
            finally:
                is_up = connection.is_connected
    except ServerError as error:
        state = State.UNKNOWN if _is_unknown(error, is_up=is_up) else State.CRITICAL
        return state, Check(state=state.name, text=str(error), alerts=[], ignored=[])
    counted = [alert for alert in status.alerts if alert.name not in ignore]
    ignored = [alert for alert in status.alerts if alert.name in ignore]
    state = State.OK if not counted else State[counted[0].level.upper()]
    told = f", {len(ignored)} ignored" if ignored else ""
    text = _sentence(counted[0]) if counted else f"namespace {status.namespace} on {status.server}: no alerts{told}"
    return state, Check(state=state.name, text=text, alerts=counted, ignored=ignored)


def _is_unknown(error: ServerError, *, is_up: bool) -> bool:
    """Whether nothing is known of the mesh.

    Args:
        is_up: Whether the connection was up when the error came.
    """
    if isinstance(error, JetStreamUnavailableError | NoLeaderError) or (
        is_up and isinstance(error, NoRespondersError | RequestTimeoutError)
    ):
        return False
    return isinstance(error, ServerUnavailableError | PermissionDeniedError)


def _sentence(alert: Alert) -> str:
    return alert.text if alert.command is None else f"{alert.text}: run `{alert.command}`"


def _first_line(text: str) -> str:
    # Monitors read what follows a bar as figures.
    return one_line(text).replace("|", "/")
