"""A failure that lasts is told in one line a minute, however often it is tried, and its end in one more.

fine --`failed`--> failing --`succeeded`--> fine
       a line      a line a minute,         a line
                   or if the reason changes
"""

from __future__ import annotations

from typing import Final, Protocol

from diracx.tasks.plumbing.clock import Clock, boottime

REPEAT_SECONDS: Final = 60.0
"""The time between two lines about one reason."""
MAX_REASONS: Final = 8
"""The reasons that have a line of their own within `REPEAT_SECONDS`; more are told with the next line."""


class Lines(Protocol):
    """Takes lines, as a `logging.Logger` does."""

    def warning(self, msg: str, *args: object) -> None:
        """Take a warning."""

    def info(self, msg: str, *args: object) -> None:
        """Take a line of information."""


class LastingFailure:
    """One thing that a process tries again and again.

    Args:
        logger: Takes the lines: warnings, and the end as information.
        cannot: What cannot be done, e.g. `cannot pull`.
        can_again: What can be done again, e.g. `can pull again`.
    """

    def __init__(self, logger: Lines, cannot: str, can_again: str, clock: Clock = boottime) -> None:
        self._logger = logger
        self.cannot = cannot
        """What cannot be done."""
        self._can_again = can_again
        self._clock = clock
        self.reason: str | None = None
        """Why the last try failed; None: it did not."""
        self.tries = 0
        """How many tries in a row have failed."""
        self._since = 0.0
        self._told = False
        self._logged_at: dict[str, float] = {}

    def failed(self, reason: str) -> None:
        """Count a try that failed, and log it if its reason was not logged within the last minute."""
        now = self._clock()
        if self.reason is None:
            self._since, self._told = now, False
        self.reason = reason
        self.tries += 1
        self._logged_at = {known: at for known, at in self._logged_at.items() if now - at < REPEAT_SECONDS}
        if reason in self._logged_at or len(self._logged_at) >= MAX_REASONS:
            return
        self._logged_at[reason], self._told = now, True
        so_far = f" (tried {self.tries} times in {now - self._since:.0f} s)" if self.tries > 1 else ""
        self._logger.warning("%s: %s%s", self.cannot, reason, so_far)

    def succeeded(self) -> None:
        """Note a try that did not fail, and log the end of a failure that was logged."""
        if self.reason is not None and self._told:
            tries = f"{self.tries} failed {'try' if self.tries == 1 else 'tries'}"
            self._logger.info("%s, after %s in %.0f s", self._can_again, tries, self._clock() - self._since)
        self.forget()

    def forget(self) -> None:
        """Take back the failure without a line: this process tries no more, and does not know how it ends."""
        self.reason, self.tries = None, 0
