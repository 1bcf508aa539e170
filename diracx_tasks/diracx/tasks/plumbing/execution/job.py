"""One task, decoded and looked up, with what its execution needs to know."""

from __future__ import annotations

from dataclasses import dataclass

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.registry import RegisteredTask
from diracx.tasks.plumbing.wire.envelope import Envelope


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be executed."""

    registered: RegisteredTask
    envelope: Envelope
    task: BaseTask
    attempt: int = 0
    """Retries already made: 0 at the first execution, and again after one that did not count."""
