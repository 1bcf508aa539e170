"""A worker in a process of its own, with the tasks of `lock_tasks`: `lock_worker.py URL NAMESPACE SLOTS BUSY_DELAY`."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from datetime import timedelta

from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.worker import Worker, WorkerSettings
from support.lock_tasks import registry


async def main(url: str, namespace: str, slots: int, busy_delay: float) -> None:
    """Work until SIGTERM."""
    settings = WorkerSettings(size=Size.SMALL, max_concurrent_tasks=slots, busy_delay=timedelta(seconds=busy_delay))
    connection_settings = ConnectionSettings(servers=(url,))
    async with Connection.open(connection_settings, name="a worker", inbox_prefix="_INBOX_worker") as connection:
        worker = Worker(connection, Namespace(namespace), registry(), Injector(), settings)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
        print("ready", flush=True)
        await worker.run()


if __name__ == "__main__":
    logging.basicConfig(level="WARNING", stream=sys.stderr)
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
