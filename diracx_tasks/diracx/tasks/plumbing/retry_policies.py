"""Whether and when a failed task is tried again. A policy decides; the worker applies the decision."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_MAX_DELAY = timedelta(days=365)


class RetryPolicyBase(ABC):
    """Decides on the retries of a task. Subclass it for a policy of your own.

    A task gets an instance, not the class:

        class OnlyTimeouts(RetryPolicyBase):
            def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
                if attempt >= 3 or not isinstance(exception, TimeoutError):
                    return None
                return datetime.now(UTC) + timedelta(minutes=1)

        class SyncOwnersTask(BaseTask):
            retry_policy = OnlyTimeouts()

    Only failures of the task count as attempts. A busy lock, a stopped worker and a lost connection do not.
    """

    @abstractmethod
    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        """Decide on one failure.

        Args:
            attempt: The number of retries already made: 0 at the first failure.
            exception: The exception that `execute()` raised, the same object.

        Returns:
            The earliest time of the next try, aware; None for no further retry.

        Raises:
            StopRetryingError: No further retry, as with None. Any other exception counts as None too, and is logged.
        """


@dataclass(frozen=True)
class NoRetry(RetryPolicyBase):
    """Never retry: the first failure is final."""

    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        """Return None."""
        return None

    def __str__(self) -> str:
        return "no retry"


@dataclass(frozen=True)
class ExponentialBackoff(RetryPolicyBase):
    """Retry exactly `max_retries` times, and double the wait each time.

    `ExponentialBackoff()` waits 10, 20, 40, 80 and 160 seconds.

    Args:
        base_delay_seconds: The wait before the first retry, in seconds; 0 or more.
        max_retries: The number of retries after the first execution; 0 is the same as `NoRetry`.

    Raises:
        ValueError: A number is negative, or the last wait exceeds 365 days.
    """

    base_delay_seconds: float = 10
    max_retries: int = 5

    def __post_init__(self) -> None:
        if not self.base_delay_seconds >= 0 or self.max_retries < 0:
            raise ValueError(f"{self}: base_delay_seconds and max_retries must be 0 or more")
        if self.max_retries and self._delay_seconds(self.max_retries - 1) > _MAX_DELAY.total_seconds():
            raise ValueError(f"{self}: the last retry would wait longer than {_MAX_DELAY.days} days")

    def _delay_seconds(self, attempt: int) -> float:
        # 2**63 times any useful base exceeds the longest delay already; a larger exponent would overflow a float.
        return self.base_delay_seconds * 2.0 ** min(attempt, 63)

    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        """Return now + `base_delay_seconds` x 2^`attempt`, or None after `max_retries` retries."""
        if attempt >= self.max_retries:
            return None
        return datetime.now(UTC) + timedelta(seconds=self._delay_seconds(attempt))

    def __str__(self) -> str:
        return f"exponential backoff, base {self.base_delay_seconds:g} s, {self.max_retries} retries"
