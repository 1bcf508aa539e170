"""The fencing token lets another system refuse the write of an owner whose lock has passed to somebody else.

A process that was stopped may wake after its lock has passed on, with a write already under way. No watchdog can call
that write back. The receiver can refuse it: it keeps the highest token it has seen and accepts nothing lower.

    async def execute(self, fencing_token: FencingToken, **kwargs):
        await storage.write(data, fence=int(fencing_token))

The token is the highest revision among the acquisitions of one execution. It rises strictly from one owner of a key to
the next, through expiry, deletion and restarts of the server:

* The revisions of one bucket are in one order.
* When the last lock of a task was taken, all of its locks were still held: their deadlines are checked after that.
* So a later owner of any of these locks acquires it at a higher revision than all of this execution's.
"""

from __future__ import annotations

from contextvars import ContextVar


class FencingToken(int):
    """The fencing token of one execution. 0: the task holds no lock, and nothing is fenced. Readers have tokens too."""

    __slots__ = ()


current_token: ContextVar[FencingToken] = ContextVar("current_token", default=FencingToken(0))  # noqa: B039
"""The token of the execution in this context."""


async def fencing_token() -> FencingToken:
    """Return the token of the execution in this context. The injector calls it for `FencingToken` parameters."""
    return current_token.get()
