"""The load of a soak run: tasks of all kinds, VOs that come and go, dead letters that are replayed and purged."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from diracx.tasks.plumbing.clock import boottime
from diracx.tasks.plumbing.dead_letters.dead_tasks import dead_tasks, remove_dead_task
from diracx.tasks.plumbing.dead_letters.replay import NotReplayableError, Replayer
from diracx.tasks.plumbing.exceptions import ServerError, TaskError
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.overrides.follower import KEY
from soak_tasks import SUBMITTED

VOS_AT_A_TIME = 6
DELAYED_SHARE = 0.1
BATCH_SECONDS = 0.5


@dataclass
class Load:
    """What is put on a mesh.

    Args:
        a_second: Submitted tasks a second.
        stop: Ends all of it.
    """

    broker: JetStreamBroker
    choose: random.Random
    a_second: float
    stop: asyncio.Event
    submitted: int = 0
    refused: int = 0
    replayed: int = 0
    purged: int = 0
    vos: deque[str] = field(default_factory=deque)
    """Those of now."""
    gone: deque[float] = field(default_factory=deque)
    """When each of the others went, by CLOCK_BOOTTIME."""
    _number: int = 0

    async def submit(self) -> None:
        """Submit tasks until stopped."""
        kinds, shares = zip(*SUBMITTED, strict=True)
        size = max(1, round(self.a_second * BATCH_SECONDS))
        while not self.stop.is_set():
            for kind in self.choose.choices(kinds, shares, k=size):
                self._number += 1
                later = self.choose.random() < DELAYED_SHARE
                at = datetime.now(UTC) + timedelta(seconds=self.choose.uniform(1, 4)) if later else None
                try:
                    await self.broker.submit(kind(self._number), at_time=at)
                    self.submitted += 1
                except TaskError:
                    self.refused += 1
            await asyncio.sleep(BATCH_SECONDS)

    async def change_vos(self, seconds: float) -> None:
        """Let a VO come and another one go each few seconds, until stopped; then all go."""
        names = (f"vo{number}" for number in range(1_000_000))
        while not self.stop.is_set():
            self.vos.append(next(names))
            if len(self.vos) > VOS_AT_A_TIME:
                self.vos.popleft()
                self.gone.append(boottime())
            await self._configure()
            await asyncio.sleep(seconds)
        self.gone.extend([boottime()] * len(self.vos))
        self.vos.clear()
        await self._configure()

    async def _configure(self) -> None:
        subject = f"$KV.{self.broker.namespace.config_bucket}.{KEY}"
        try:
            await self.broker.connection.request(subject, f"vos: [{', '.join(self.vos)}]\n".encode())
        except ServerError:
            self.refused += 1

    async def empty_dead_letters(self, seconds: float) -> None:
        """Replay some of the dead letters and purge the others each few seconds, until stopped; then purge all."""
        while not self.stop.is_set():
            await asyncio.sleep(seconds)
            await self.settle_dead_letters(replay_share=0.2)

    async def settle_dead_letters(self, replay_share: float = 0.0) -> None:
        """Replay a share of all dead letters, and purge the others."""
        connection, names = self.broker.connection, self.broker.namespace
        replayer = Replayer(connection, names)
        try:
            await replayer.finish_earlier()
            async for each in dead_tasks(connection, names):
                if self.choose.random() < replay_share:
                    # Only the advisory may be left of it.
                    with suppress(NotReplayableError):
                        await replayer.replay(each)
                        self.replayed += 1
                else:
                    await remove_dead_task(connection, names, each)
                    self.purged += 1
        except ServerError:
            self.refused += 1
