"""Ready-made parameters of `execute()`, for task authors."""

from __future__ import annotations

from diracx.tasks.plumbing.depends import CallbackSpawner, NoTransaction

__all__ = ["CallbackSpawner", "NoTransaction"]
