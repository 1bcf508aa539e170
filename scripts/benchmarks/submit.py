"""How fast tasks are submitted, compared with nats-py: one after another, many in flight, and many in one call.

Both sides publish to one stream of one server from one process and one event loop, in turns; the order alternates. The
bare side sends the same bodies with the same headers, and has made both before its time begins. Ours encodes, checks
and names each task within its time.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias
from uuid import uuid4

import msgspec
import nats
from nats.js import JetStreamContext

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.wire.envelope import Envelope
from drain import Measurement, positive
from drain_contender import stopwatch
from figures import Comparisons, Figures

SUMMARY: Final = "submitting tasks, beside the publishes of nats-py"
BOUNDS: Final = {"one after another": 0.95, "100 in flight": 1.0, "submit_many": 0.8}
"""The least speed, as a share of that of nats-py."""
IN_FLIGHT: Final = 100
NAME: Final = "bench:Transfer"

Message: TypeAlias = tuple[bytes, dict[str, str]]
Ours: TypeAlias = Callable[[JetStreamBroker, Sequence["Transfer"]], Awaitable[None]]
Bare: TypeAlias = Callable[[JetStreamContext, str, Sequence[Message]], Awaitable[None]]


@dataclasses.dataclass
class Transfer(BaseTask):
    """Has a few fields, as most tasks do."""

    owner_name: str
    job_id: int
    files: list[str]
    size_gb: float = 1.5
    checked: bool = False
    due: datetime | None = None

    size = Size.SMALL

    async def execute(self) -> None:
        """Nobody executes it."""


@dataclasses.dataclass
class Comparison:
    """All pairs of one way to submit."""

    way: str
    bare_way: str
    bare: list[Measurement] = dataclasses.field(default_factory=list)
    ours: list[Measurement] = dataclasses.field(default_factory=list)

    @property
    def ratios(self) -> Figures:
        """Our speed divided by the bare speed, for each pair."""
        return Figures([ours.per_second / bare.per_second for bare, ours in zip(self.bare, self.ours, strict=True)])

    @property
    def cpu_ratios(self) -> Figures:
        """The same for CPU time a task, which other processes disturb less."""
        pairs = zip(self.bare, self.ours, strict=True)
        return Figures([ours.cpu_microseconds / bare.cpu_microseconds for bare, ours in pairs])

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "way": self.way,
            "bound": BOUNDS[self.way],
            "ratio": self.ratios.document(),
            "cpu_ratio": self.cpu_ratios.document(),
            **{
                name: {
                    "per_second": Figures([one.per_second for one in measured]).document(),
                    "cpu_microseconds": Figures([one.cpu_microseconds for one in measured]).document(),
                }
                for name, measured in (("bare", self.bare), ("ours", self.ours))
            },
        }

    def text(self) -> str:
        """Two lines for the contenders, two for the ratios."""
        lines = []
        for name, measured in ((self.way, self.ours), (self.bare_way, self.bare)):
            speed = Figures([one.per_second for one in measured]).text(",.0f")
            cpu = Figures([one.cpu_microseconds for one in measured]).text(".0f")
            lines.append(f"{name:32} {speed:>26} tasks/s {cpu:>14} us CPU/task")
        bound = f"; at least {BOUNDS[self.way]} is promised"
        for what, ratios, note in (("speed", self.ratios, bound), ("CPU", self.cpu_ratios, "")):
            each = " ".join(f"{ratio:.2f}" for ratio in ratios.values)
            lines.append(f"{what + ', ours / bare':32} {ratios.median:>8.2f}, the median of {each}{note}")
        return "\n".join(lines)

    def missed(self) -> list[str]:
        """A line if the promised ratio was missed."""
        if self.ratios.median >= BOUNDS[self.way]:
            return []
        return [f"{self.way}: {self.ratios.median:.2f} of {self.bare_way}, {BOUNDS[self.way]} is promised"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--rounds", type=positive, default=9, metavar="N", help="pairs for each way (9)")
    parser.add_argument("--tasks", type=positive, default=2_000, metavar="N", help="tasks of each measurement (2000)")


def run(options: argparse.Namespace) -> Comparisons:
    """Measure all ways."""
    return asyncio.run(_measure(options.rounds, options.tasks))


async def _measure(rounds: int, tasks: int) -> Comparisons:
    registry = TaskRegistry()
    registry.add(NAME, Transfer)
    ways: list[tuple[Comparison, Ours, Bare]] = [
        (Comparison("one after another", "js.publish, one after another"), _ours_in_turn, _bare_in_turn),
        (Comparison("100 in flight", "js.publish, 100 in flight"), _ours_in_flight, _bare_in_flight),
        (Comparison("submit_many", "js.publish_async"), _submit_many, _publish_async),
    ]
    async with (
        EmbeddedServer() as server,
        JetStreamBroker.connect(server.url, registry=registry, name="diracx-bench") as broker,
    ):
        client = await nats.connect(server.url)
        jetstream, subject = client.jetstream(), broker.namespace.task_subject(*registry.get(NAME).queue)
        for turn in range(rounds + 1):
            for comparison, ours, bare in ways:
                for side in ("ours", "bare") if turn % 2 else ("bare", "ours"):
                    made = [Transfer("alice", number, ["/lhcb/a", "/lhcb/b"]) for number in range(tasks)]
                    messages = [_message(task) for task in made]
                    read = stopwatch(tasks)
                    await (ours(broker, made) if side == "ours" else bare(jetstream, subject, messages))
                    measured = Measurement(**read())
                    await _purge(broker, tasks)
                    if turn:  # the first round warms up
                        getattr(comparison, side).append(measured)
                print(f"round {turn} of {rounds}, {comparison.way}", file=sys.stderr)
        await client.close()
    return Comparisons([comparison for comparison, *_ in ways])


def _message(task: Transfer) -> Message:
    envelope = Envelope(name=NAME, id=uuid4().hex, submitted=datetime.now(UTC))
    return msgspec.json.encode(task), envelope.to_headers()


async def _purge(broker: JetStreamBroker, tasks: int) -> None:
    """Empty the stream; without `tasks` messages in it the measurement is void."""
    purged = await broker.connection.api(f"STREAM.PURGE.{broker.namespace.tasks_stream}")
    if purged["purged"] != tasks:
        raise SystemExit(f"error: {purged['purged']} of {tasks} tasks were stored")


async def _ours_in_turn(broker: JetStreamBroker, tasks: Sequence[Transfer]) -> None:
    for task in tasks:
        await task.schedule()


async def _bare_in_turn(jetstream: JetStreamContext, subject: str, messages: Sequence[Message]) -> None:
    for body, headers in messages:
        await jetstream.publish(subject, body, headers=headers)


async def _ours_in_flight(broker: JetStreamBroker, tasks: Sequence[Transfer]) -> None:
    waiting = iter(tasks)

    async def submit() -> None:
        for task in waiting:
            await task.schedule()

    await asyncio.gather(*(submit() for _ in range(IN_FLIGHT)))


async def _bare_in_flight(jetstream: JetStreamContext, subject: str, messages: Sequence[Message]) -> None:
    waiting = iter(messages)

    async def publish() -> None:
        for body, headers in waiting:
            await jetstream.publish(subject, body, headers=headers)

    await asyncio.gather(*(publish() for _ in range(IN_FLIGHT)))


async def _submit_many(broker: JetStreamBroker, tasks: Sequence[Transfer]) -> None:
    await broker.submit_many(tasks)


async def _publish_async(jetstream: JetStreamContext, subject: str, messages: Sequence[Message]) -> None:
    acks = [await jetstream.publish_async(subject, body, headers=headers) for body, headers in messages]
    await asyncio.gather(*acks)
