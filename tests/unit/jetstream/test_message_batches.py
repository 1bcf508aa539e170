"""A batch that no replica answers is read through the leader, in a cluster."""

from __future__ import annotations

import base64
from typing import Any, cast

import pytest

from diracx.tasks.plumbing.jetstream import message_batches
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import ApiError
from diracx.tasks.plumbing.jetstream.message_batches import read_batches


class SilentReplicas:
    """Stands for the connection and its client: a batch gets no answer, and the leader has two messages."""

    in_cluster = True

    @property
    def client(self) -> SilentReplicas:
        return self

    def new_inbox(self) -> str:
        return "inbox"

    def api_subject(self, suffix: str) -> str:
        return suffix

    async def nothing(self, *_: Any, **__: Any) -> None: ...

    listen = leave = publish = nothing

    def on_permission_denied(self, _: object) -> None: ...

    remove_on_permission_denied = on_permission_denied

    async def api(self, suffix: str, query: dict[str, Any], **_: Any) -> dict[str, Any]:
        assert suffix == "STREAM.MSG.GET.T"
        if query["seq"] > 2:
            raise ApiError(404, 10037, "no message found")
        body = base64.b64encode(b"{}").decode()
        return {"message": {"subject": "s", "seq": query["seq"], "time": "2026-01-01T00:00:00Z", "data": body}}


async def test_the_leader_is_asked_when_no_replica_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_batches, "REPLICA_SECONDS", 0.1)
    found = read_batches(cast(Connection, SilentReplicas()), "T")
    assert [message.sequence async for message in found] == [1, 2]
