"""The configuration's word on limiters: what it sets for a task, or for one VO of it, stands in place of the code's."""

from __future__ import annotations

from diracx.tasks.plumbing.execution.job import Job
from diracx.tasks.plumbing.locks import ConcurrencyLimiter, CountingLimiter, RateLimiter
from diracx.tasks.plumbing.overrides.follower import ConfigurationFollower


class ConfiguredLimits:
    """Gives the limiter that is taken; the `limits` of an `Executor`.

    Args:
        follower: Of the configuration; it is asked at each execution, so a change counts from the next one on.
    """

    def __init__(self, follower: ConfigurationFollower) -> None:
        self._follower = follower

    def __call__(self, job: Job, limiter: CountingLimiter) -> CountingLimiter:
        """The limiter of the task, or one with the limit that is configured."""
        vo = getattr(job.task, "vo", None)
        override = self._follower.current.override(job.envelope.name, vo if isinstance(vo, str) else None)
        if isinstance(limiter, RateLimiter):
            rate = override.rate_limit
            return limiter if rate is None else limiter.limited(rate.limit, rate.window_seconds)
        if isinstance(limiter, ConcurrencyLimiter) and override.concurrency_limit is not None:
            return limiter.limited(override.concurrency_limit)
        return limiter
