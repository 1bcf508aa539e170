"""Tasks that fail: one is tried again much later, one becomes a dead letter."""

from __future__ import annotations

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff


class Later(BaseTask):
    """Fails, and is tried again in an hour."""

    size = Size.SMALL
    retry_policy = ExponentialBackoff(base_delay_seconds=3_600)

    async def execute(self) -> None:
        raise ValueError("no such owner")


class Dies(BaseTask):
    """Becomes a dead letter at once."""

    size = Size.SMALL
    dlq_eligible = True

    async def execute(self) -> None:
        raise ValueError("no such mouse")
