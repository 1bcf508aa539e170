"""A second connection on another thread, and a clock that stands still."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from support.clock import ManualClock
from support.elsewhere import Elsewhere


@pytest.fixture
async def elsewhere(server: EmbeddedServer, bucket: Bucket) -> AsyncIterator[Elsewhere]:
    async with Elsewhere.open(server.url, bucket.name) as elsewhere:
        yield elsewhere


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_000.0)
