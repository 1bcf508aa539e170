"""Followers of the configuration of a mesh."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.overrides.follower import ConfigurationFollower
from diracx.tasks.plumbing.wire.names import Namespace


@asynccontextmanager
async def following(connection: Connection, namespace: Namespace) -> AsyncIterator[ConfigurationFollower]:
    """A follower that runs during the block."""
    follower = ConfigurationFollower(connection, namespace)
    running = asyncio.create_task(follower.run())
    try:
        yield follower
    finally:
        running.cancel()
        await asyncio.wait([running])
