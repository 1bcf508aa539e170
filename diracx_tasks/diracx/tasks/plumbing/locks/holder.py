"""Who holds a lock."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import msgspec


class Holder(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who holds a lock, as an operator reads it in the bucket."""

    owner: str
    """Unique for each acquisition."""
    task: str
    id: str
    worker: str
    since: datetime
    waiting: bool = False
    """Holds nothing yet: keeps new readers out until the present ones are gone."""

    @classmethod
    def new(cls, *, task: str, id: str, worker: str) -> Holder:  # noqa: A002 - the field's name on the wire
        """A holder with an owner of its own, from now on."""
        return cls(owner=uuid4().hex, task=task, id=id, worker=worker, since=datetime.now(UTC))

    def __str__(self) -> str:
        return f"{self.task} {self.id} on {self.worker} since {self.since.isoformat(timespec='seconds')}"


_decoder = msgspec.json.Decoder(Holder)


def read_holder(value: bytes) -> Holder | None:
    """The holder in a key's value; None when somebody else's hand wrote it."""
    try:
        return _decoder.decode(value)
    except msgspec.MsgspecError:
        return None


def in_words(value: bytes) -> str:
    """What a key's value says, for an error."""
    holder = read_holder(value)
    return str(holder) if holder is not None else value[:100].decode(errors="replace")
