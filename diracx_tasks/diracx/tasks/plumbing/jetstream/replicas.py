"""Which replicas of the streams, buckets and consumers of a mesh are behind, away, or still to be made.

What nats-server 2.15 does when the number of replicas of a stream changes, seen on three servers:

* It answers the update at once. The new replicas begin to copy within a second, sometimes only after ten.
* The consumers follow about ten seconds after their stream has all replicas.
* It does not answer another change while the first one has not begun. So `is_moving` is asked before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from diracx.tasks.plumbing.jetstream.assets import Asset
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import (
    CONSUMER_NOT_FOUND,
    STREAM_NOT_FOUND,
    ApiError,
    NoLeaderError,
    NoRespondersError,
    PermissionDeniedError,
    RequestTimeoutError,
)

ANSWER_SECONDS: Final = 2.0
"""How long a look at a stream or consumer of a cluster takes. Without a leader it does not answer, or says so."""
NO_LEADER_ERRORS: Final = (NoLeaderError, NoRespondersError, RequestTimeoutError)
"""How such a look fails in a cluster where nobody leads the stream or consumer."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """The replicas of one asset on a cluster."""

    asset: Asset
    wanted: int
    """How many its configuration asks for. Nobody tells it without a leader: then it counts as how many there are."""
    leader: str | None
    """The server that leads it; None: none does."""
    followers: tuple[Mapping[str, Any], ...]
    """The others, as the server lists them: `name`, `current`, perhaps `offline` and `lag`."""

    @property
    def is_moving(self) -> bool:
        """Whether it has not got the number of replicas that it is to have."""
        behind = any(not each["current"] and not each.get("offline") for each in self.followers)
        return len(self.followers) != self.wanted - 1 or behind

    @property
    def problem(self) -> str:
        """What is not as it should be, without the name of the asset; "" if nothing is."""
        if self.leader is None:
            return "has no leader"
        found = [text for each in self.followers if (text := _lag(each))]
        if (lacking := self.wanted - 1 - len(self.followers)) > 0:
            found.append(f"{lacking} of {self.wanted} replicas still to be made")
        elif lacking < 0:
            found.append(f"{-lacking} {'replica' if lacking == -1 else 'replicas'} still to be removed")
        return ", ".join(found)


async def read_replicas(connection: Connection, assets: Iterable[Asset]) -> list[Replicas]:
    """Read the replicas of the assets. A server that stands alone leads each, with no follower.

    An asset that is missing, or that this user may not look at, is left out.

    Raises:
        NotConnectedError: The connection is down.
        ApiError: The server refused to tell.
    """
    listed = list(assets)
    return replicas_of(zip(listed, await asyncio.gather(*(_info(connection, asset) for asset in listed)), strict=True))


def replicas_of(found: Iterable[tuple[Asset, Mapping[str, Any] | None]]) -> list[Replicas]:
    """The replicas of assets as the server describes them; None: it does not tell."""
    told = [(asset, info) for asset, info in found if info is not None and "cluster" in info]
    # A consumer without a number of its own has that of its stream.
    wanted = {
        asset.stream: info["config"].get("num_replicas", 1)
        for asset, info in told
        if "config" in info and asset.kind != "consumer"
    }
    return [
        _replicas(asset, info, info.get("config", {}).get("num_replicas") or wanted.get(asset.stream))
        for asset, info in told
    ]


def catching_up(replicas: Iterable[Replicas]) -> list[str]:
    """One line for each thing that is not as it should be, e.g. `bucket diracx_locks: server-2 is 1,204 writes behind`.

    Consumers of which the same is to be said share a line.
    """
    lines: list[str] = []
    consumers: dict[str, list[str]] = {}
    for each in replicas:
        if not each.problem:
            continue
        if each.asset.kind == "consumer":
            consumers.setdefault(each.problem, []).append(each.asset.name)
        else:
            lines.append(f"{each.asset}: {each.problem}")
    return lines + [
        f"{'consumer' if len(names) == 1 else 'consumers'} {', '.join(names)}: {problem}"
        for problem, names in consumers.items()
    ]


def _lag(follower: Mapping[str, Any]) -> str:
    name, lag = follower["name"], follower.get("lag", 0)
    if follower.get("offline"):
        return f"{name} is offline"
    if follower["current"]:
        return ""
    return f"{name} is {lag:,} {'write' if lag == 1 else 'writes'} behind" if lag else f"{name} is catching up"


def _replicas(asset: Asset, info: Mapping[str, Any], wanted: int | None) -> Replicas:
    cluster = info["cluster"]
    followers = tuple(cluster.get("replicas") or ())
    return Replicas(asset, wanted or len(followers) + 1, cluster.get("leader") or None, followers)


async def _info(connection: Connection, asset: Asset) -> dict[str, Any] | None:
    kind = "CONSUMER" if asset.kind == "consumer" else "STREAM"
    names = f"{asset.stream}.{asset.name}" if asset.kind == "consumer" else asset.stream
    try:
        return await connection.api(f"{kind}.INFO.{names}", timeout=ANSWER_SECONDS)
    except NO_LEADER_ERRORS:
        return {"cluster": {}}  # nobody leads it
    except PermissionDeniedError:
        return None
    except ApiError as error:
        if error.err_code in (CONSUMER_NOT_FOUND, STREAM_NOT_FOUND):
            return None
        raise
