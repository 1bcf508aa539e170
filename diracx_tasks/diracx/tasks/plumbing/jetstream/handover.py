"""The hand-over of what falls due, from the stream of later to the stream of now, across changes of their leaders.

On a cluster, the leader of the stream that sources reads from a consumer at the leader of the other stream, its origin,
and hears from it every second at the least. That consumer ends with the leader of the origin. The server looks for such
a source every 10 s, and waits up to 30 s for the answer of an origin without a leader. A *new* leader of the stream
that sources connects to its source at once. So a worker that sees a silent source asks for one.

origin has no leader --elected--> source lost --`should_ask`, STEPDOWN--> new leader --0.2 to 0.8 s--> source well

Invariants:

- Nothing is asked while the origin has no leader: a source that is set up then waits for 30 s.
- A leader of the stream that sources gets the time to set its source up, and more of it after each change that did not
  help, up to a minute.
- Any number of workers may ask. All of them name the same server, which refuses to follow itself: of several that saw
  the same leader one is heeded.
- All ages and silences are of one server's clock each. The clocks of two servers are never compared.

A crash leaves nothing behind: nothing is stored, and the next look of any worker sees the same. What was handed over is
known by its sequence in the origin, so a new leader hands nothing over twice.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from diracx.tasks.plumbing.background import wait_for_event
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.incoming import Received
from diracx.tasks.plumbing.jetstream.errors import PermissionDeniedError
from diracx.tasks.plumbing.jetstream.hearing import listening
from diracx.tasks.plumbing.observability.lasting_failure import LastingFailure
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.times import from_rfc3339

logger = logging.getLogger("diracx.tasks.jetstream")

HEARTBEAT_SECONDS: Final = 1.0
"""How often a source that has nothing to deliver is heard (`sourceHealthHB` of the server)."""
WELL_SECONDS: Final = 1.5 * HEARTBEAT_SECONDS
SILENT_SECONDS: Final = 2.5 * HEARTBEAT_SECONDS
"""After this silence a source is lost, even if its origin kept its leader."""
TAKING_OVER_SECONDS: Final = 0.5
SETTLE_SECONDS: Final = 2.0
"""The time in which a new leader sets its source up; it was seen to take 0.2 to 0.8 s."""
MAX_SETTLE_SECONDS: Final = 60.0

CALM_SECONDS: Final = 3.0
"""The time between two looks at a source that is well."""
ALERT_SECONDS: Final = 0.25
"""The time between two looks at one that is not."""
IDLE_SECONDS: Final = 60.0
"""The time until it is looked for copies, which an operator may add, or for a permission."""
ANSWER_SECONDS: Final = 1.0

LEADER_ELECTED: Final = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED"


@dataclass(frozen=True, slots=True)
class SourceState:
    """A stream that sources another one, its origin, at one moment. Both have a leader."""

    leader: str
    """The server that leads the stream."""
    leader_age: float
    """The seconds since it was elected; infinite if the server does not tell."""
    followers: tuple[str, ...]
    """The other servers that are up to date, from the next by name on, the first after the last."""
    origin_leader: str
    """The server that leads the origin."""
    origin_age: float
    """The seconds since the leader of the origin was elected; infinite if the server does not tell."""
    silent: float
    """The seconds since the source was last heard; infinite: not since the leader was elected."""

    @classmethod
    def of(cls, stream: Mapping[str, Any], origin: Mapping[str, Any]) -> Self | None:
        """Read two answers of STREAM.INFO, of which that of `origin` was asked for last, so that no silence looks
        longer than it is. None: one of them has no leader."""
        cluster, origin_cluster = stream["cluster"], origin.get("cluster", {})
        leader, origin_leader = cluster.get("leader"), origin_cluster.get("leader")
        if not leader or not origin_leader:
            return None
        active = stream["sources"][0]["active"]  # nanoseconds; negative: never
        silent = active / 1e9 if active >= 0 else math.inf
        followers = _in_turn(leader, cluster.get("replicas", ()))
        return cls(leader, _age(stream), followers, origin_leader, _age(origin), silent)

    @property
    def is_lost(self) -> bool:
        """Whether nothing was heard of the source since the leader of its origin was elected."""
        return self.silent >= self.origin_age

    @property
    def is_well(self) -> bool:
        """Whether the source is heard, as far as can be said."""
        return not self.is_lost and self.silent <= WELL_SECONDS


def _age(info: Mapping[str, Any]) -> float:
    since = info["cluster"].get("leader_since")
    if since is None:
        return math.inf
    return (from_rfc3339(info["ts"]) - from_rfc3339(since)).total_seconds()


def _in_turn(leader: str, replicas: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    names = [each["name"] for each in replicas if each.get("current") and not each.get("offline")]
    return tuple(sorted(names, key=lambda name: (name < leader, name)))


class StallDetector:
    """Says when a new leader of the stream that sources is to be asked for."""

    def __init__(self) -> None:
        self._last: SourceState | None = None
        self._changes = 0
        """How often the stream changed its leader since the source was well, or its origin got a leader."""
        self._fallen: str | None = None
        """The server that led the origin before."""

    def should_ask(self, state: SourceState) -> bool:
        """Take what was seen now into account, and decide."""
        last, self._last = self._last, state
        if last is not None and state.origin_leader != last.origin_leader:
            self._fallen = last.origin_leader
        if state.is_well or last is None or state.origin_age < last.origin_age:
            self._changes = 0
        elif state.leader != last.leader:
            self._changes += 1
        if not state.is_lost and state.silent <= SILENT_SECONDS:
            return False
        return state.leader_age >= self._time_to_settle(state)

    def successor(self, state: SourceState) -> str | None:
        """The server to lead the stream next, the same for all workers. None: any.

        Not the one that led the origin before, if there is another: it was just killed, or is about to end. After a
        kill it may not know how far the stream had come.
        """
        return next((name for name in state.followers if name != self._fallen), None)

    def _time_to_settle(self, state: SourceState) -> float:
        # A leader that is older than that of the origin asked an origin that was away: it waits for 10 to 30 s.
        if state.leader_age > state.origin_age and self._changes == 0:
            return TAKING_OVER_SECONDS
        return min(SETTLE_SECONDS * 2.0 ** max(self._changes - 1, 0), MAX_SETTLE_SECONDS)


class Handover:
    """Keeps the source of the task stream going while `run` runs, where the stream has copies."""

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        self._connection = connection
        self._stream, self._origin = namespace.tasks_stream, namespace.later_stream
        self._detector = StallDetector()
        self._woken = asyncio.Event()
        self._refusal = LastingFailure(
            logger,
            "what falls due around a change of leaders comes up to 30 s late",
            "what falls due around a change of leaders comes in time again",
        )

    async def run(self) -> None:
        """Look now and then, after each reconnect and when the origin has a new leader, until cancelled."""
        self._connection.on_reconnect(self._woken.set)
        try:
            async with listening(self._connection, f"{LEADER_ELECTED}.{self._origin}", self._wake):
                while True:
                    pause = await self._look()
                    await wait_for_event(self._woken, pause * random.uniform(0.5, 1.5))
                    self._woken.clear()
        finally:
            self._connection.remove_on_reconnect(self._woken.set)

    def _wake(self, _: Received) -> None:
        self._woken.set()

    async def _look(self) -> float:
        """Look at the source, ask for a new leader if that helps it, and return the seconds until the next look."""
        try:
            stream = await self._info(self._stream)
            if stream["config"]["num_replicas"] == 1 or not stream.get("sources"):
                return IDLE_SECONDS
            state = SourceState.of(stream, await self._info(self._origin))
            if state is None:
                return ALERT_SECONDS
            if self._detector.should_ask(state):
                await self._ask(state)
        except PermissionDeniedError as refusal:
            self._refusal.failed(f"{refusal}; grant it as in nats/accounts.conf")
            return IDLE_SECONDS
        except ServerError as error:
            logger.debug("the source of %s cannot be looked at: %s", self._stream, error)
            return ALERT_SECONDS
        return CALM_SECONDS if state.is_well else ALERT_SECONDS

    async def _info(self, stream: str) -> dict[str, Any]:
        return await self._connection.api(f"STREAM.INFO.{stream}", timeout=ANSWER_SECONDS)

    async def _ask(self, state: SourceState) -> None:
        successor = self._detector.successor(state)
        body = {} if successor is None else {"placement": {"preferred": successor}}
        # Not repeated: the leader that answers the first try late is gone, and the next look decides anew.
        subject = f"STREAM.LEADER.STEPDOWN.{self._stream}"
        await self._connection.api(subject, body, timeout=ANSWER_SECONDS, repeats=False)
        self._refusal.succeeded()
        silent = "not heard yet" if math.isinf(state.silent) else f"silent for {state.silent:.1f} s"
        logger.info(
            "asked for a new leader of %s in place of %s: its source, %s, was %s",
            self._stream,
            state.leader,
            self._origin,
            silent,
        )
