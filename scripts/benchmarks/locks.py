"""Mutexes acquired and released, compared with the bare create and delete of nats-py on the same bucket.

Each round measures every case once on one server, bare and ours; the order alternates. Ours is what a worker does:
through the keeper, with an owner, the watchdog and the memory of busy keys. The cases:

- uncontended: one lane takes one key again and again, as a mutex is used.
- fresh keys: one lane, a key for each pair. The bare delete leaves a marker for each key, ours leaves nothing.
- 20 keys: 20 lanes with a key each.
- one key: 20 lanes contend for one key.

A lane that finds its key taken, bare or ours, tries again after a millisecond.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import nats
from nats.js.errors import KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.exceptions import UnableToAcquireLockError
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import DEFAULT_TTL_MS, LockOwner, MutexLock
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from diracx.tasks.plumbing.wire.names import Namespace
from figures import Comparisons, Figures

SUMMARY: Final = "mutexes acquired and released, beside nats-py's create and delete"
LANES: Final = 20
RETRY_SECONDS: Final = 0.001
BOUND: Final = 1.0
"""The least speed of an uncontended mutex, as a share of the bare speed."""

Pair: TypeAlias = Callable[[str], Awaitable[bool]]
"""Acquires and releases a key; returns False if another lane has it."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds (5)")
    parser.add_argument("--pairs", type=int, default=2_000, metavar="N", help="pairs for each measurement (2000)")


@dataclass(frozen=True)
class Case:
    """One number of lanes and keys."""

    name: str
    lanes: int
    keys: int
    """0: a key for each pair."""
    bound: float | None = None


CASES: Final = (
    Case("uncontended", 1, 1, BOUND),
    Case("fresh keys", 1, 0),
    Case("20 keys", LANES, LANES),
    Case("one key", LANES, 1),
)


@dataclass
class Comparison:
    """All rounds of one case."""

    case: Case
    bare: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> Figures:
        """Our speed divided by the bare speed, for each round."""
        return Figures([ours / bare for ours, bare in zip(self.ours, self.bare, strict=True)])

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "case": self.case.name,
            "bound": self.case.bound,
            "ratio": self.ratios.document(),
            "bare": Figures(self.bare).document(),
            "ours": Figures(self.ours).document(),
        }

    def text(self) -> str:
        """One line."""
        bound = f"; at least {self.case.bound} is promised" if self.case.bound is not None else ""
        return (
            f"{self.case.name:12} {Figures(self.ours).text(',.0f'):>24} pairs/s"
            f"   bare {Figures(self.bare).text(',.0f'):>24} pairs/s"
            f"   ratio {self.ratios.text('.2f')}{bound}"
        )

    def missed(self) -> list[str]:
        """A line if the promised ratio was missed."""
        if self.case.bound is None or self.ratios.median >= self.case.bound:
            return []
        return [f"{self.case.name}: {self.ratios.median:.2f} of the bare speed, {self.case.bound} is promised"]


def run(options: argparse.Namespace) -> Comparisons:
    """Measure all cases."""
    return asyncio.run(_run(options.rounds, options.pairs))


async def _run(rounds: int, pairs: int) -> Comparisons:
    comparisons = [Comparison(case) for case in CASES]
    names = Namespace()
    with EmbeddedServer() as server:
        settings = ConnectionSettings(servers=(server.url,))
        async with Connection.open(settings, name="bench", inbox_prefix="_INBOX_bench") as connection:
            await ensure(connection, assets(names))
            client = await nats.connect(server.url)
            bare = _bare(await client.jetstream().key_value(names.locks_bucket))
            async with LockKeeper(Bucket(connection, names.locks_bucket)) as keeper:
                for number in range(rounds):
                    for each in comparisons:
                        contenders = [(each.bare, bare, "bare"), (each.ours, _ours(keeper), "ours")]
                        for figures, pair, name in contenders[:: 1 if number % 2 else -1]:
                            figures.append(await _measure(pair, each.case, pairs, f"{name}-{number}"))
            await client.close()
    return Comparisons(comparisons, separator="\n")


async def _measure(pair: Pair, case: Case, pairs: int, prefix: str) -> float:
    """Pairs per second."""
    numbers = iter(range(pairs))

    async def lane(own: int) -> None:
        for number in numbers:
            key = f"{prefix}-{case.lanes}-{own % case.keys if case.keys else number}"
            while not await pair(key):  # noqa: ASYNC110 - a contender that polls is what is measured
                await asyncio.sleep(RETRY_SECONDS)

    started = time.perf_counter()
    await asyncio.gather(*(lane(own) for own in range(case.lanes)))
    return pairs / (time.perf_counter() - started)


def _bare(bucket: KeyValue) -> Pair:
    async def pair(key: str) -> bool:
        try:
            await bucket.create(key, b"x" * 150, msg_ttl=DEFAULT_TTL_MS / 1000)
        except KeyWrongLastSequenceError:
            return False
        await bucket.delete(key)
        return True

    return pair


def _ours(keeper: LockKeeper) -> Pair:
    async def pair(key: str) -> bool:
        owner = LockOwner.new(task="lollygag:SyncOwnersTask", id="01929c", worker="host-1-small")
        with suppress(UnableToAcquireLockError):
            async with keeper.hold([MutexLock(JOB, key)], owner, lambda: None):
                return True
        return False

    return pair
