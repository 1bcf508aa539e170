"""How urgent a task is, and how much of a worker it takes."""

from __future__ import annotations

from enum import StrEnum


class Priority(StrEnum):
    """How urgent a task is. Strict: a worker takes a lower one only when no higher one waits.

    Members are declared from the most to the least urgent; the value is the token on the wire.
    """

    REALTIME = "realtime"
    NORMAL = "normal"
    BACKGROUND = "background"


class Size(StrEnum):
    """How much of a worker a task takes. A worker process serves one size.

    The value is the token on the wire.
    """

    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"
