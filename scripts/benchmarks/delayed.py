"""Tasks for later, beside bare schedules of the server.

- submit: `schedule(at_time)`. The floor is nats-py's publish of a message with `Nats-Schedule: @at`.
- drain: tasks that fell due, once all are in their queue. The floor is fetch, ack, and the deletion of the copy in the
  stream of later tasks, without which a task would return if the task stream were created anew.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Final

from nats.aio.msg import Msg

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream.headers import STREAM_SOURCE, schedule_headers
from diracx.tasks.plumbing.jetstream.stream_messages import purge_subject
from diracx.tasks.testing import wait_until
from figures import Comparisons
from ways import Bench, Way, compare, in_lanes, on_a_server, watch
from ways import add_options as add_options

SUMMARY: Final = "delayed tasks submitted and drained, beside bare schedules of the server"
SLOTS: Final = 100
DAY: Final = timedelta(days=1)
DUE_AFTER: Final = timedelta(seconds=1)


@dataclasses.dataclass
class Later(BaseTask):
    """Does nothing, later."""

    number: int

    size = Size.SMALL

    async def execute(self) -> None:
        """Do nothing."""
        watch.start()


def run(options: argparse.Namespace) -> Comparisons:
    """Measure both."""
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> Comparisons:
    async with on_a_server(Later) as bench:
        return await compare([_submit(bench, 1), _submit(bench, SLOTS), _drain(bench)], options)


def _submit(bench: Bench, lanes: int) -> Way:
    names, numbers = bench.names, count()
    target = names.due_subject(Priority.NORMAL, Size.SMALL)

    async def schedule(number: int) -> None:
        await Later(number).schedule(at_time=datetime.now(UTC) + DAY)

    async def publish(number: int) -> None:
        headers = schedule_headers(datetime.now(UTC) + DAY, target) | {"Task-Name": "bench:Later"}
        subject = names.delayed_subject(f"bare-{lanes}-{next(numbers)}")
        await bench.jetstream.publish(subject, b'{"number":1}', headers=headers)

    async def ours(tasks: int) -> None:
        watch.start()
        await in_lanes(lanes, tasks, schedule)
        watch.stop()
        await _withdraw(bench)

    async def bare(tasks: int) -> None:
        watch.start(anew=True)
        await in_lanes(lanes, tasks, publish)
        watch.stop()
        await _withdraw(bench)

    return Way(f"schedule(at_time), {lanes} at a time", f"  publish of @at, {lanes} at a time", ours, bare)


def _drain(bench: Bench) -> Way:
    async def settle(message: Msg) -> None:
        assert message.headers is not None
        stream, sequence, *_ = message.headers[STREAM_SOURCE].split()
        await message.ack()
        # Not by nats-py's `delete_msg`, which has the server overwrite the message on its disk.
        await bench.client.request(
            f"$JS.API.STREAM.MSG.DELETE.{stream}", b'{"seq":%s,"no_erase":true}' % sequence.encode()
        )

    async def fall_due(tasks: int) -> None:
        due = datetime.now(UTC) + DUE_AFTER
        await in_lanes(SLOTS, tasks, lambda number: Later(number).schedule(at_time=due))

        async def all_due() -> bool:
            info = await bench.broker.connection.api(f"STREAM.INFO.{bench.names.tasks_stream}")
            return bool(info["state"]["messages"] == tasks)

        await wait_until(all_due, timeout=60, description="all tasks have fallen due")

    async def ours(tasks: int) -> None:
        await fall_due(tasks)
        await bench.drain(tasks, SLOTS)
        await bench.ensure_drained()

    async def bare(tasks: int) -> None:
        await fall_due(tasks)
        watch.start(anew=True)
        await bench.fetch(tasks, SLOTS, settle)
        watch.stop()
        await bench.ensure_drained()

    return Way(f"drain of what fell due, {SLOTS} slots", f"  fetch, ack, delete, {SLOTS} at a time", ours, bare)


async def _withdraw(bench: Bench) -> None:
    await purge_subject(bench.broker.connection, bench.names.later_stream, bench.names.delayed_subject("*"))
