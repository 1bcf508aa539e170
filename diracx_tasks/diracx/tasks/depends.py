"""Ready-made parameters of `execute()` for task authors. `diracx.tasks.plumbing.depends` has the markers and rules."""

from __future__ import annotations

from diracx.tasks.plumbing.callbacks import ChildOutcome, GroupOutcomes
from diracx.tasks.plumbing.depends import CallbackSpawner, NoTransaction

__all__ = ["CallbackSpawner", "ChildOutcome", "GroupOutcomes", "NoTransaction"]
