"""The last resort: code that keeps a thread, past the moment at which it had to leave it, ends the process.

Python cannot stop a thread from outside. Two ends exist:

* `end_now`: a lease or a lock lapsed, and the code goes on. The deadline of a lease or a lock lies a second before the
  server's, so the process must be gone by then: the next owner must not begin beside it. What can be given back within
  `GIVE_BACK_SECONDS` is given back.
* `retire`: the code runs on past its timeout, or holds up its worker. Leases and locks are kept, so there is time: the
  worker stops in order, and its process ends.

Both say so in the log, make the worker not live (`reason`), and end the process with `EXIT_CODE`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

logger = logging.getLogger("diracx.tasks.worker")

GIVE_BACK_SECONDS: Final = 2.0
"""The time that the worker has to give back its messages before the process ends."""
MAX_LATE_SECONDS: Final = 0.5
"""The process ends so much later, at the latest, when its event loop is held up."""
EXIT_CODE: Final = 79
"""The exit code of a process that ends itself because code of a task keeps a thread."""


def end_process(code: int = EXIT_CODE) -> NoReturn:
    """End the process at once, without waiting for any thread."""
    logging.shutdown()
    os._exit(code)


class LastResort:
    """Ends the process.

    Args:
        end: Ends the process at once.
    """

    def __init__(self, end: Callable[[], object] = end_process) -> None:
        self.end = end
        self.reason: str | None = None
        """Why the process ends; None: it does not."""
        self.on_retire: Callable[[], object] = lambda: None
        """Stops the worker in order."""
        self.give_back: Callable[[], Awaitable[object]] | None = None
        """Gives back the messages in flight."""
        self._ending: asyncio.Task[None] | None = None

    def retire(self, reason: str) -> None:
        """End the process in order."""
        if self.reason is None:
            self.reason = reason
            logger.error("%s: the worker stops, and its process ends", reason)
            self.on_retire()

    def end_now(self, reason: str) -> None:
        """End the process within `GIVE_BACK_SECONDS`."""
        self.reason = reason
        if self._ending is None:
            logger.critical("%s: the process ends, so that the task cannot go on beside its next owner", reason)
            # The code of another task may hold up this loop meanwhile.
            backstop = threading.Timer(GIVE_BACK_SECONDS + MAX_LATE_SECONDS, self.end)
            backstop.name, backstop.daemon = "last resort", True
            backstop.start()
            self._ending = asyncio.create_task(self._end(backstop), name="end of the process")

    async def _end(self, backstop: threading.Timer) -> None:
        try:
            async with asyncio.timeout(GIVE_BACK_SECONDS):
                if self.give_back is not None:
                    await self.give_back()
        except Exception:
            logger.exception("not every message was given back; the rest return when their leases lapse")
        finally:  # also when the loop ends meanwhile
            backstop.cancel()
            self.end()
