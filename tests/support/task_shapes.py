"""Task classes with all kinds of fields: plain, nested, frozen, recursive and none."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar


@dataclass(frozen=True)
class Owner:
    name: str
    quota: Decimal | None = None


@dataclass
class Sync:
    owner_name: str
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    owner: Owner
    since: datetime | None = None
    tags: tuple[str, ...] = ()


@dataclass
class Tree:
    value: int = 0
    children: list[Tree] = field(default_factory=list)


class Bare:
    priority = "high"
    seen: ClassVar[int] = 0


AT = datetime(2026, 12, 1, 6, 0, 0, 5, tzinfo=UTC)


def with_field(kind: Any) -> type[Any]:
    """A task class with the field `value` of this type."""
    return dataclasses.make_dataclass("Task", [("value", kind)])
