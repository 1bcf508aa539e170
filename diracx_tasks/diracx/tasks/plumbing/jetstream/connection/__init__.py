"""How does a process connect to NATS, survive outages, and match replies with requests?"""

from diracx.tasks.plumbing.jetstream.connection.connection import Connection

__all__ = ["Connection"]
