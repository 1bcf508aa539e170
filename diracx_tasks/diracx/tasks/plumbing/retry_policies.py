"""Whether, and when, a failed task is tried again. Policies decide; the worker carries out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_LONGEST_DELAY = timedelta(days=365)


class RetryPolicyBase(ABC):
    """Subclass it for a policy of your own; give the task an instance, not the class."""

    @abstractmethod
    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        """Decide on one failure.

        Args:
            attempt: Retries already made: 0 at the first failure.
            exception: The very object that `execute()` raised.

        Returns:
            An aware time before which the task is not tried again, or None for no further retry.

        Raises:
            StopRetryingError: The same as None. Any other exception counts as None too, and is reported.
        """


@dataclass(frozen=True)
class NoRetry(RetryPolicyBase):
    """The first failure is final."""

    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        """Return None: no retry, ever."""
        return None

    def __str__(self) -> str:
        return "no retry"


@dataclass(frozen=True)
class ExponentialBackoff(RetryPolicyBase):
    """Wait base, 2 x base, 4 x base... and give exactly `max_retries` retries.

    Args:
        base_delay_seconds: Wait before the first retry, in seconds; each further one doubles it.
        max_retries: Retries after the first execution; 0 is the same as `NoRetry`.

    Raises:
        ValueError: A negative number, or a last delay of more than 365 days.
    """

    base_delay_seconds: float = 10
    max_retries: int = 5

    def __post_init__(self) -> None:
        if not self.base_delay_seconds >= 0 or self.max_retries < 0:
            raise ValueError(f"{self}: base_delay_seconds and max_retries must be 0 or more")
        if self.max_retries and self._seconds(self.max_retries - 1) > _LONGEST_DELAY.total_seconds():
            raise ValueError(f"{self}: the last retry would wait longer than {_LONGEST_DELAY.days} days")

    def _seconds(self, attempt: int) -> float:
        # 2**63 of any useful base is past the longest delay already; a float would overflow first.
        return self.base_delay_seconds * 2.0 ** min(attempt, 63)

    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        """Return now + base x 2^attempt, or None when `max_retries` retries were made."""
        if attempt >= self.max_retries:
            return None
        return datetime.now(UTC) + timedelta(seconds=self._seconds(attempt))

    def __str__(self) -> str:
        return f"exponential backoff, base {self.base_delay_seconds:g} s, {self.max_retries} retries"
