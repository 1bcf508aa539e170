"""Celery on Redis."""

from __future__ import annotations

import asyncio
import os

from celery import Celery

from submitting import arguments, submit
from tally import begun

app = Celery("celery_app", broker=os.environ["PEER_URL"])
# At least once, as the others: a task is acknowledged after it was executed. No result is kept.
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=100,
    worker_hijack_root_logger=False,
)


@app.task  # type: ignore[untyped-decorator]
def noop(sent: float) -> None:
    """Do nothing but call the tally."""
    begun(sent)


async def send(sent: float) -> None:
    """Submit one; Celery has no asyncio."""
    noop.delay(sent)


if __name__ == "__main__":
    asyncio.run(submit(send, *arguments()))
