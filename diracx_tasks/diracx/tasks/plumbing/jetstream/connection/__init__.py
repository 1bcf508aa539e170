"""The one connection of a process: how it is made, how it survives outages, how it asks and gets answers."""

from diracx.tasks.plumbing.jetstream.connection.connection import Connection

__all__ = ["Connection"]
