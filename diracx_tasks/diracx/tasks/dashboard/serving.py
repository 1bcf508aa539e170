"""A dashboard that listens: the whole of it, from a connection to the end of the last stream."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Final

import uvicorn

from diracx.tasks.dashboard.access import LOOPBACK_NAMES, PROXIES, AccessSettings, Gate, is_loopback
from diracx.tasks.dashboard.app import OWN_NAMES, Dashboard
from diracx.tasks.dashboard.connections import MAX_CONNECTIONS, PromptProtocol
from diracx.tasks.dashboard.letter_actions import PurgeLetters, ReplayLetters
from diracx.tasks.dashboard.lock_actions import ReleaseLock
from diracx.tasks.dashboard.mesh import Mesh
from diracx.tasks.dashboard.pages import configuration, dead_letters, locks, overview, schedules, task, tasks
from diracx.tasks.dashboard.queue_actions import PauseQueue, ResumeQueue
from diracx.tasks.dashboard.schedule_actions import RunNow
from diracx.tasks.dashboard.task_actions import CancelTask

__all__ = ["LOOPBACK_NAMES", "PROXIES", "TAKEN", "AccessSettings", "Mesh", "is_loopback", "listen", "serving"]


PAGES: Final = (
    overview.PAGE,
    tasks.PAGE,
    dead_letters.PAGE,
    schedules.PAGE,
    locks.PAGE,
    configuration.PAGE,
    dead_letters.ONE_PAGE,
    task.PAGE,
)
ACTIONS: Final = (
    PauseQueue(),
    ResumeQueue(),
    CancelTask(),
    ReplayLetters(),
    PurgeLetters(),
    RunNow(),
    ReleaseLock(),
)
TAKEN: Final = frozenset({each.path.split("/")[1] for each in PAGES} | OWN_NAMES) - {""}
"""What a path behind a proxy must not begin with: where the proxy cuts it off, and where not, could not be told."""
CLOSE_SECONDS: Final = 1
"""Requests that are being answered have this time at the end."""


def listen(host: str, port: int) -> socket.socket:
    """Listen on an address; port 0 takes a free one.

    Raises:
        OSError: The address is in use or not available.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=128)


class _Server(uvicorn.Server):
    """The signals belong to the command that runs this."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


@contextlib.asynccontextmanager
async def serving(mesh: Mesh, settings: AccessSettings, listening: socket.socket) -> AsyncIterator[Dashboard]:
    """Serve a dashboard on a socket within the block. At its end all streams end at once."""
    port = listening.getsockname()[1]
    dashboard = Dashboard(mesh, Gate(settings), PAGES, ACTIONS, cookie=f"diracx_tasks_{mesh.namespace.name}_{port}")
    config = uvicorn.Config(
        dashboard.app,
        http=PromptProtocol,
        log_config=None,
        log_level="error",  # anybody can send what is no request: not a line for each
        access_log=False,
        lifespan="off",
        ws="none",
        proxy_headers=False,  # the address of a request is that of the other end of the connection
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=CLOSE_SECONDS,
    )
    server = _Server(config)
    running = asyncio.create_task(server.serve(sockets=[listening]), name="dashboard")
    try:
        yield dashboard
    finally:
        await dashboard.close()
        server.should_exit = True
        await running
        listening.close()
