"""The fencing token: what lets another system tell a stale holder's write from a current one's.

A holder that is stopped may wake after its lock has passed to somebody else, and its write may be under way already.
No watchdog can call that back; but who receives the write can refuse it, by keeping the highest token seen and taking
nothing lower:

    async def execute(self, fencing_token: FencingToken, **kwargs):
        await storage.write(data, fence=int(fencing_token))

The token is the highest revision among the acquisitions of this execution. It rises strictly from one holder of a key
to the next, through expiry, deletion and restarts of the server: the revisions of one bucket are in one order; when
the last of a task's locks was taken, all of them were still held (their deadlines are checked after that); so whoever
takes one of them later does so at a higher revision than any of this execution.
"""

from __future__ import annotations

from contextvars import ContextVar


class FencingToken(int):
    """The token of one execution; 0 when it holds no lock, which fences nothing. Readers have theirs, too."""

    __slots__ = ()


current_token: ContextVar[FencingToken] = ContextVar("current_token", default=FencingToken(0))  # noqa: B039
"""Of the execution in this context."""


async def fencing_token() -> FencingToken:
    """The token of the execution in this context."""
    return current_token.get()
