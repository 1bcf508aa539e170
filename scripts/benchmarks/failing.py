"""Tasks that fail, beside the bare operations that keep what came of them.

- retried: fails, and is to be tried again in a day. The floor is fetch, the put of a record into the bucket of the
  attempts, and nak. What waits for its retry is purged.
- dead: fails for good and becomes a dead letter. The floor is fetch, the put of a record, which says that the task is
  not to be executed again, the publish of the dead letter, term, and the deletion of the record.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import logging
from datetime import timedelta
from typing import Final

from nats.aio.msg import Msg
from nats.js.kv import KeyValue

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.exceptions import TaskRetryRequestedError
from diracx.tasks.plumbing.jetstream.stream_messages import purge_subject
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff
from figures import Comparisons
from ways import Bench, Way, compare, on_a_server, watch
from ways import add_options as add_options

SUMMARY: Final = "tasks that are tried again or become dead letters, beside the bare put, publish and term"
SLOTS: Final = 100
DAY: Final = timedelta(days=1)
RECORD: Final = b"x" * 300


class _Failing(BaseTask):
    size = Size.SMALL
    dlq_eligible = True

    async def execute(self) -> None:
        """Fail."""
        watch.start()
        raise TaskRetryRequestedError("not yet")


@dataclasses.dataclass
class Retried(_Failing):
    """Fails, and is to be tried again in a day."""

    number: int

    retry_policy = ExponentialBackoff(base_delay_seconds=int(DAY.total_seconds()), max_retries=3)


@dataclasses.dataclass
class Dead(_Failing):
    """Fails for good."""

    number: int


def run(options: argparse.Namespace) -> Comparisons:
    """Measure both."""
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> Comparisons:
    logging.getLogger("diracx.tasks.worker").setLevel(logging.CRITICAL)  # a line for each would be most of the output
    async with on_a_server(Retried, Dead) as bench:
        bucket = await bench.jetstream.key_value(bench.names.attempts_bucket)
        return await compare([_retried(bench, bucket), _dead(bench, bucket)], options)


def _retried(bench: Bench, bucket: KeyValue) -> Way:
    async def park(message: Msg) -> None:
        await bucket.put(str(message.metadata.sequence.stream), RECORD)
        await message.nak(DAY.total_seconds())

    async def ours(tasks: int) -> None:
        await bench.submit([Retried(number) for number in range(tasks)])
        await bench.drain(tasks, SLOTS)
        await _purge(bench)

    async def bare(tasks: int) -> None:
        await bench.submit([Retried(number) for number in range(tasks)])
        watch.start(anew=True)
        await bench.fetch(tasks, SLOTS, park)
        watch.stop()
        await _purge(bench)

    return Way(f"retried, {SLOTS} slots", f"  fetch, put, nak, {SLOTS} at a time", ours, bare)


def _dead(bench: Bench, bucket: KeyValue) -> Way:
    async def bury(message: Msg) -> None:
        sequence = message.metadata.sequence.stream
        revision = await bucket.put(str(sequence), RECORD)
        subject = f"{bench.names.name}.dlq.bench.Bare.{sequence}"
        await bench.jetstream.publish(subject, message.data, headers=message.headers)
        await message.term()
        delete = f"$JS.API.STREAM.MSG.DELETE.KV_{bench.names.attempts_bucket}"
        await bench.client.request(delete, b'{"seq":%d,"no_erase":true}' % revision)

    async def ours(tasks: int) -> None:
        await bench.submit([Dead(number) for number in range(tasks)])
        await bench.drain(tasks, SLOTS)
        await bench.ensure_drained()

    async def bare(tasks: int) -> None:
        await bench.submit([Dead(number) for number in range(tasks)])
        watch.start(anew=True)
        await bench.fetch(tasks, SLOTS, bury)
        watch.stop()
        await bench.ensure_drained()

    return Way(f"dead letter, {SLOTS} slots", f"  fetch, put, publish, term, delete, {SLOTS} at a time", ours, bare)


async def _purge(bench: Bench) -> None:
    queue = bench.names.task_subject(Priority.NORMAL, Size.SMALL)
    await purge_subject(bench.broker.connection, bench.names.tasks_stream, queue)
