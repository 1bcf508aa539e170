"""What the streams and buckets of a mesh hold, which are missing, and whether what falls due is handed over.

A missing one does not end the reading, and neither does one without a leader, which only a cluster has. The server
names no cause for tasks that are not handed over but an error of the source; a full stream of tasks and a silent source
are told apart here. Where there is a hint, one task that fell due is looked for in the stream of tasks: what falls due
stays in the stream of later until its task has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.jetstream.assets import Asset, assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import STREAM_NOT_FOUND, ApiError, PermissionDeniedError
from diracx.tasks.plumbing.jetstream.handover import SILENT_SECONDS
from diracx.tasks.plumbing.jetstream.headers import STREAM_SOURCE
from diracx.tasks.plumbing.jetstream.message_batches import read_batches
from diracx.tasks.plumbing.jetstream.replicas import ANSWER_SECONDS, NO_LEADER_ERRORS
from diracx.tasks.plumbing.jetstream.stream_messages import StoredMessage, read_message
from diracx.tasks.plumbing.operations.status_document import DueTasks, StorageStatus, StreamStatus
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.times import from_rfc3339, to_rfc3339

LATE_AFTER: Final = timedelta(seconds=5)
"""A task that fell due so long ago should be in its queue; it takes milliseconds, on a cluster up to some seconds."""
LOOK_BACK: Final = timedelta(seconds=30)
"""A task that fell due within this time is looked for, else the latest."""
LOOK_FURTHER_BACK: Final = timedelta(hours=1)
"""Where only young ones fell due within `LOOK_BACK`, one of this time is looked for: they must not hide it."""
MAX_SEARCHED: Final = 1_000
"""Among so many messages of the stream of tasks."""
_NANOSECONDS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class StoredMesh:
    """The streams and buckets of a mesh."""

    at: datetime
    """The time of the server."""
    streams: list[StreamStatus]
    missing: list[str]
    """E.g. `bucket diracx_locks`."""
    storage: StorageStatus | None
    due: DueTasks
    leaderless: Mapping[str, str]
    """The streams of which nothing is known, since nobody leads them, e.g. `KV_diracx_locks`, with the names that they
    have in `missing`."""


class StorageReader:
    """Reads the streams and buckets of one mesh, any number of times."""

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        self._connection = connection
        self._namespace = namespace
        self._assets = [asset for asset in assets(namespace) if asset.kind != "consumer"]

    async def read(self) -> StoredMesh:
        """Read them once.

        Raises:
            ServerUnavailableError: No answer; in a cluster, for no stream at all.
            ApiError: All are missing; or as `Connection.api`.
        """
        storage, found = await asyncio.gather(self._account(), asyncio.gather(*map(self._info, self._assets)))
        answers = {asset.stream: answer for asset, answer in zip(self._assets, found, strict=True)}
        infos = {stream: answer for stream, answer in answers.items() if isinstance(answer, dict)}
        errors = {stream: answer for stream, answer in answers.items() if isinstance(answer, ServerUnavailableError)}
        if not infos:
            for error in errors.values():
                raise error
            raise ApiError(404, STREAM_NOT_FOUND, "stream not found")
        at = max(from_rfc3339(info["ts"]) for info in infos.values())
        return StoredMesh(
            at=at,
            streams=[_stream(asset, infos[asset.stream]) for asset in self._assets if asset.stream in infos],
            missing=[str(asset) for asset in self._assets if answers[asset.stream] is None],
            storage=storage,
            due=await self._due_if_led(infos, at),
            leaderless={asset.stream: str(asset) for asset in self._assets if asset.stream in errors},
        )

    async def missing(self) -> tuple[list[str], bool]:
        """The streams and buckets that are missing, e.g. `bucket diracx_locks`, and whether these are all.

        Raises:
            ServerUnavailableError: No answer; not in a cluster, where a stream may have no leader.
            ApiError: As `Connection.api`.
        """
        answers = await asyncio.gather(*map(self._info, self._assets))
        missing = [str(asset) for asset, answer in zip(self._assets, answers, strict=True) if answer is None]
        return missing, len(missing) == len(self._assets)

    @property
    def _patience(self) -> float | None:
        return ANSWER_SECONDS if self._connection.in_cluster else None

    async def _info(self, asset: Asset) -> dict[str, Any] | ServerUnavailableError | None:
        """What the server tells of a stream; the error where nobody leads it; None: it is missing."""
        try:
            return await self._connection.api(f"STREAM.INFO.{asset.stream}", timeout=self._patience)
        except NO_LEADER_ERRORS as error:
            if not self._connection.in_cluster:
                raise
            return error
        except ApiError as error:
            if error.err_code != STREAM_NOT_FOUND:
                raise
            return None

    async def _account(self) -> StorageStatus | None:
        try:
            info = await self._connection.api("INFO", timeout=self._patience)
        except PermissionDeniedError:
            return None
        except NO_LEADER_ERRORS:  # the cluster itself has no leader
            if not self._connection.in_cluster:
                raise
            return None
        limit = int(info.get("limits", {}).get("max_storage", -1))
        return StorageStatus(bytes=int(info.get("storage", 0)), max_bytes=limit if limit > 0 else None)

    async def _due_if_led(self, infos: Mapping[str, dict[str, Any]], now: datetime) -> DueTasks:
        try:
            return await self._due(infos, now)
        except NO_LEADER_ERRORS:  # the leader ended meanwhile
            if not self._connection.in_cluster:
                raise
            return DueTasks(0)

    async def _due(self, infos: Mapping[str, dict[str, Any]], now: datetime) -> DueTasks:
        """The tasks that the stream of tasks should have taken by now."""
        names = self._namespace
        tasks = infos.get(names.tasks_stream)
        if tasks is None or names.later_stream not in infos:
            return DueTasks(0)
        source = next((each for each in tasks.get("sources", ()) if each["name"] == names.later_stream), None)
        if source is None:  # which keeps each worker from starting
            return DueTasks(0)
        problem, lag = _problem(source), int(source.get("lag", 0))
        # While the stream of tasks is full the server begins anew with the source again and again, and tells no lag.
        if not lag and problem is None and _has_room(tasks):
            return DueTasks(0)
        late = await self._late(now)
        if late is None or await self._is_taken(late):
            return DueTasks(0)
        # A task that has ended meanwhile was removed from both.
        if await read_message(self._connection, names.later_stream, seq=late.sequence) is None:
            return DueTasks(0)
        return DueTasks(max(1, lag), problem)

    async def _late(self, now: datetime) -> StoredMessage | None:
        """A task that fell due some time ago and has not ended, of the last half minute if there is one."""
        due = f"{self._namespace.name}.due.*.*"
        queries: tuple[dict[str, Any], ...] = (
            {"start_time": to_rfc3339(now - LOOK_BACK), "next_by_subj": due},
            {"start_time": to_rfc3339(now - LOOK_FURTHER_BACK), "next_by_subj": due},
            {"last_by_subj": due},
        )
        for query in queries:
            found = await read_message(self._connection, self._namespace.later_stream, **query)
            if found is not None and now - found.stored >= LATE_AFTER:
                return found
        return None

    async def _is_taken(self, due: StoredMessage) -> bool:
        """Whether the stream of tasks has a task that fell due, or a later one: they are taken in their order. Behind
        more than `MAX_SEARCHED` tasks that were stored since then it counts as taken."""
        stream, subject = self._namespace.tasks_stream, f"{self._namespace.name}.tasks.*.*"
        since = to_rfc3339(due.stored)
        first = await read_message(self._connection, stream, start_time=since, next_by_subj=subject)
        if first is None:
            return False
        searched = 0
        async for message in read_batches(self._connection, stream, subject, first=first.sequence):
            _, _, origin = message.headers.get(STREAM_SOURCE, "").partition(" ")
            sequence = origin.partition(" ")[0]
            if sequence.isdecimal() and int(sequence) >= due.sequence:
                return True
            if (searched := searched + 1) >= MAX_SEARCHED:
                return True
        return False


def _has_room(info: Mapping[str, Any]) -> bool:
    """Whether a stream has room for one more message like those in it."""
    config, state = info["config"], info["state"]
    messages, size = int(state["messages"]), int(state["bytes"])
    most, most_messages = _limit(config, "max_bytes"), _limit(config, "max_msgs")
    average = size / max(1, messages)
    return (most is None or size + average <= most) and (most_messages is None or messages < most_messages)


def _problem(source: Mapping[str, Any]) -> str | None:
    """Why a stream takes nothing from its source, as far as the server tells."""
    if error := source.get("error"):
        return f"the server says: {error.get('description', 'no description')}"
    silent = int(source.get("active", 0)) / _NANOSECONDS
    if silent < 0:
        return "nothing was heard of that stream yet"
    return f"nothing was heard of that stream for {silent:.0f} s" if silent > 2 * SILENT_SECONDS else None


def _stream(asset: Asset, info: Mapping[str, Any]) -> StreamStatus:
    config, state = info["config"], info["state"]
    return StreamStatus(
        name=asset.stream,
        messages=int(state["messages"]),
        bytes=int(state["bytes"]),
        max_bytes=_limit(config, "max_bytes"),
        max_messages=_limit(config, "max_msgs"),
        refuses=config.get("discard") == "new",
    )


def _limit(config: Mapping[str, Any], name: str) -> int | None:
    limit = int(config.get(name, -1))
    return limit if limit > 0 else None
