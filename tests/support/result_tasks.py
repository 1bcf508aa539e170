"""Tasks that return values or fail, for tests of results."""

from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime
from typing import Any

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.exceptions import (
    TaskRetryRequestedError,
)
from diracx.tasks.plumbing.retry_policies import RetryPolicyBase

LONG = 30.0
"""Longer than any wait of a test that succeeds, in seconds."""


class AtOnce(RetryPolicyBase):
    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        return datetime.now(UTC) if attempt < 2 else None


@dataclasses.dataclass
class Returns(BaseTask):
    value: Any = 1
    size = Size.SMALL

    async def execute(self) -> Any:
        return self.value


class Keeps(Returns):
    result_ttl_seconds = 60


@dataclasses.dataclass
class Large(BaseTask):
    chars: int
    size = Size.SMALL

    async def execute(self) -> str:
        return "x" * self.chars


class NoJson(BaseTask):
    size = Size.SMALL

    async def execute(self) -> dict[str, float]:
        return {"share": math.nan}


class DiskError(Exception):
    pass


@dataclasses.dataclass
class Fails(BaseTask):
    text: str = "full"
    size = Size.SMALL

    async def execute(self) -> None:
        raise DiskError(self.text)


class Dies(Fails):
    dlq_eligible = True


tries: list[int] = []
"""The executions of `Recovers`; to be cleared by a test."""


class Recovers(BaseTask):
    size = Size.SMALL
    retry_policy = AtOnce()

    async def execute(self) -> int:
        tries.append(1)
        if len(tries) < 3:
            raise TaskRetryRequestedError("not yet")
        return len(tries)
