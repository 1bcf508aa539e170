"""The state that `status --check` makes of an error."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from diracx.tasks.cli.commands import status_check
from diracx.tasks.cli.commands.status_check import State
from diracx.tasks.cli.options import Access
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream.errors import (
    NoLeaderError,
    NotConnectedError,
    PermissionDeniedError,
    RequestTimeoutError,
)


@pytest.mark.parametrize(
    ("error", "is_up", "state"),
    [
        (NoLeaderError("subject", 10), True, State.CRITICAL),
        (RequestTimeoutError("subject", 10), True, State.CRITICAL),
        (RequestTimeoutError("subject", 10), False, State.UNKNOWN),
        (NotConnectedError("the connection is down"), False, State.UNKNOWN),
        (PermissionDeniedError("publish", "subject"), True, State.UNKNOWN),
    ],
)
def test_a_mesh_that_does_not_answer_over_a_connection_that_is_up_is_critical(
    error: ServerError, is_up: bool, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def connection(*_: object) -> AsyncIterator[object]:
        yield SimpleNamespace(is_connected=is_up)

    class Reader:
        def __init__(self, *_: object) -> None:
            """Read nothing."""

        async def read(self) -> None:
            raise error

    monkeypatch.setattr(status_check, "operator_connection", connection)
    monkeypatch.setattr(status_check, "StatusReader", Reader)
    access = Access(namespace="diracx", url=None, context=None, credentials={})
    assert status_check.check(ignore=[], as_json=False, access=access) is state
