"""Which tasks are cancelled? A follower keeps a worker up to date."""

from __future__ import annotations

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.wire.envelope import Envelope
from diracx.tasks.plumbing.wire.names import Namespace


class CancellationFollower:
    """Follows the cancellations of one mesh while `run` runs."""

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        self._connection, self._namespace = connection, namespace
        self.any = False
        """Whether there is any. While there is none, `reason` is not called."""

    def reason(self, envelope: Envelope) -> str | None:
        """Why this task must not execute; None: it may."""
        raise NotImplementedError
