"""What it costs a worker that a task is the child of a group: its CPU, compared with plain tasks.

A worker process drains the same number of equal tasks, once as plain tasks and once as the children of one group; the
order alternates. The callback is for workers of another size, so it is held and released, and not executed.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import msgspec

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.groups.records import GroupRecord, PartRecord, callback_id, child_id, place
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.headers import schedule_headers
from diracx.tasks.plumbing.jetstream.publish import BatchMessage, publish_batch
from diracx.tasks.plumbing.jetstream.stream_messages import purge_subject
from diracx.tasks.plumbing.wire.envelope import MSG_ID, Envelope
from diracx.tasks.testing import wait_until
from drain import Measurement, contend, ensure_drained, positive
from figures import Comparisons, Figures
from noop import Noop, registry

SUMMARY: Final = "no-op tasks as children of a group, beside plain ones: the worker's CPU"
BOUNDS: Final = {100: 1.5, 10: 1.5}
"""Slots -> the CPU of a child, at most, as a multiple of that of a plain task. A worker of small tasks has 100 by
default. With fewer, fewer children share a write."""
PART: Final = 1_000
CALLBACK_QUEUE: Final = (Priority.NORMAL, Size.MEDIUM)
DAY: Final = timedelta(days=1)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--rounds", type=positive, default=5, metavar="N", help="pairs for each number of slots (5)")
    parser.add_argument("--tasks", type=positive, default=10_000, metavar="N", help="tasks of each measurement (10000)")
    parser.add_argument("--slots", type=positive, nargs="+", default=list(BOUNDS), metavar="N", help="slots (100 10)")


@dataclass
class Comparison:
    """All pairs of measurements with one number of slots."""

    slots: int
    plain: list[Measurement] = field(default_factory=list)
    grouped: list[Measurement] = field(default_factory=list)
    writes: list[int] = field(default_factory=list)
    """How often the records of the group were written."""

    @property
    def ratios(self) -> Figures:
        """CPU of a child divided by that of a plain task, for each pair."""
        pairs = zip(self.plain, self.grouped, strict=True)
        return Figures([child.cpu_microseconds / plain.cpu_microseconds for plain, child in pairs])

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "slots": self.slots,
            "bound": BOUNDS.get(self.slots),
            "cpu_ratio": self.ratios.document(),
            "writes": self.writes,
            **{
                name: {
                    "per_second": Figures([one.per_second for one in measured]).document(),
                    "cpu_microseconds": Figures([one.cpu_microseconds for one in measured]).document(),
                }
                for name, measured in (("plain", self.plain), ("grouped", self.grouped))
            },
        }

    def text(self) -> str:
        """A line for each kind of task, one for the ratio, one for the writes."""
        lines = []
        for name, measured in (("plain tasks", self.plain), ("children of a group", self.grouped)):
            speed = Figures([one.per_second for one in measured]).text(",.0f")
            cpu = Figures([one.cpu_microseconds for one in measured]).text(".0f")
            lines.append(f"{name:22} {speed:>26} tasks/s {cpu:>14} us CPU/task")
        each = " ".join(f"{ratio:.2f}" for ratio in self.ratios.values)
        bound = f"; at most {BOUNDS[self.slots]} is promised" if self.slots in BOUNDS else ""
        ratio = f"{self.ratios.median:>8.2f}, the median of {each}{bound}"
        lines.append(f"CPU, {self.slots:3} slots         {ratio}")
        lines.append(f"writes of the records  {Figures(self.writes).text(',.0f'):>26}")
        return "\n".join(lines)

    def missed(self) -> list[str]:
        """A line if the promised ratio was missed."""
        bound = BOUNDS.get(self.slots, math.inf)
        if self.ratios.median <= bound:
            return []
        return [f"{self.slots} slots: a child costs {self.ratios.median:.2f} of a plain task, {bound} is promised"]


def run(options: argparse.Namespace) -> Comparisons:
    """Measure all numbers of slots."""
    return asyncio.run(_measure(options.rounds, options.tasks, options.slots))


async def _measure(rounds: int, tasks: int, slots: Sequence[int]) -> Comparisons:
    comparisons = [Comparison(number) for number in slots]
    async with (
        EmbeddedServer() as server,
        JetStreamBroker.connect(server.url, registry=registry(), name="diracx-bench") as broker,
    ):
        for turn in range(rounds):
            for comparison in comparisons:
                for grouped in (False, True) if turn % 2 == 0 else (True, False):
                    if grouped:
                        comparison.grouped.append(await _grouped(broker, server.url, turn, comparison, tasks))
                    else:
                        await broker.schedule_many([Noop("alice")] * tasks)
                        comparison.plain.append(await contend(server.url, "worker", comparison.slots, tasks))
                    await ensure_drained(broker)
                print(f"round {turn + 1} of {rounds}, {comparison.slots} slots", file=sys.stderr)
    return Comparisons(comparisons)


async def _grouped(broker: JetStreamBroker, url: str, turn: int, comparison: Comparison, tasks: int) -> Measurement:
    group = f"bench-{comparison.slots}-{turn}"
    await _store(broker, group, tasks)
    before = await _last_sequence(broker)
    measured = await contend(url, "worker", comparison.slots, tasks)
    comparison.writes.append(await _last_sequence(broker) - before)
    await _remove_callback(broker)
    return measured


async def _remove_callback(broker: JetStreamBroker) -> None:
    """Wait for the callback in its queue, which nobody serves, and remove it."""
    names = broker.namespace
    queue = names.task_subject(*CALLBACK_QUEUE)

    async def removed() -> bool:
        return await purge_subject(broker.connection, names.tasks_stream, queue) > 0

    await wait_until(removed, description="the callback is in its queue")


async def _last_sequence(broker: JetStreamBroker) -> int:
    info = await broker.connection.api(f"STREAM.INFO.{broker.namespace.later_stream}")
    return int(info["state"]["last_seq"])


async def _store(broker: JetStreamBroker, group: str, tasks: int) -> None:
    """Store a group as a spawner does."""
    names, now = broker.namespace, broker.connection.clock.now()
    starts = tuple(range(0, tasks, PART))
    record = GroupRecord(
        spawned=now, ttl_seconds=DAY.total_seconds(), children=tasks, starts=starts, callback="bench:After"
    )
    held = Envelope(name="bench:After", id=callback_id(group), callback=group).to_headers()
    held |= schedule_headers(now + DAY, names.due_subject(*CALLBACK_QUEUE))
    del held[MSG_ID]
    records = [BatchMessage(names.group_subject(group), msgspec.json.encode(record), {})]
    for number, first in enumerate(starts):
        count = min(PART, tasks - first)
        part = PartRecord(tasks=("bench:Noop",), queues=("normal.small",), children=(0,) * count, stored=True)
        records.append(BatchMessage(names.group_part_subject(group, number), msgspec.json.encode(part), {}))
    records.append(BatchMessage(names.delayed_subject(callback_id(group)), b"{}", held))
    await publish_batch(broker.connection, records)
    registered = broker.registry.of(Noop("alice"))
    for first in starts:
        children = []
        for index in range(first, min(first + PART, tasks)):
            envelope = Envelope(
                name=registered.name,
                id=child_id(group, index),
                submitted=now,
                parent="bench",
                group=place(group, index),
            )
            body = registered.codec.encode(Noop("alice"))
            children.append(BatchMessage(names.task_subject(*registered.queue), body, envelope.to_headers()))
        await publish_batch(broker.connection, children)
