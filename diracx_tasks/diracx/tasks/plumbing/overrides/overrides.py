"""The configuration of a mesh: one YAML file that overrides settings of tasks.

    vos: [lhcb, atlas]
    tasks:
      lollygag:OwnerReportTask:
        schedule: {cron: "0 7 * * *", timezone: Europe/Zurich}
        rate_limit: {limit: 10, window_seconds: 60}
        concurrency_limit: 5
        vos:
          atlas: {enabled: false}

Every key is optional. A key set for a VO wins over the same key set for the task, and that wins over the task's code.
"""

from __future__ import annotations

from typing import Any

import msgspec

from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.overrides.configuration import Configuration, ConfigurationError, Override, RateLimit
from diracx.tasks.plumbing.schedules import CronSchedule, IntervalSeconds, RRuleSchedule, TaskScheduleBase


class _Schedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The YAML of a schedule: exactly one of `cron`, `interval` and `rrule`."""

    cron: str | None = None
    interval: float | None = None
    """In seconds."""
    rrule: str | None = None
    timezone: str | None = None
    """The time zone of `cron`."""

    def schedule(self) -> TaskScheduleBase:
        given = [name for name in ("cron", "interval", "rrule") if getattr(self, name) is not None]
        if len(given) != 1:
            raise TaskDefinitionError(f"write one of cron, interval (seconds) and rrule, not {len(given)}")
        if self.timezone is not None and self.cron is None:
            raise TaskDefinitionError("timezone goes with cron; an rrule has it in its DTSTART")
        if self.cron is not None:
            return CronSchedule(self.cron, self.timezone or "UTC")
        if self.rrule is not None:
            return RRuleSchedule(self.rrule)
        return IntervalSeconds(self.interval or 0)


class _Written(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    enabled: bool | None = None
    schedule: _Schedule | None = None
    rate_limit: RateLimit | None = None
    concurrency_limit: int | None = None


class _WrittenTask(_Written, frozen=True, kw_only=True, forbid_unknown_fields=True):
    vos: dict[str, Any] | None = None


class _WrittenFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    vos: list[str] | None = None
    tasks: dict[str, Any] | None = None


def parse(text: bytes | str) -> Configuration:
    """Read the YAML of a configuration.

    Raises:
        ConfigurationError: The text is not YAML, or has an unknown key or a bad value.
    """
    try:
        raw = msgspec.yaml.decode(text)
    except (msgspec.MsgspecError, ValueError) as error:  # a ValueError: bytes that are no text, a date that is none
        raise ConfigurationError(f"the configuration is not YAML: {error}") from None
    file = _convert({} if raw is None else raw, _WrittenFile, "")
    tasks: dict[str, Override] = {}
    task_vos: dict[tuple[str, str], Override] = {}
    for task, raw_task in (file.tasks or {}).items():
        path = f"tasks.{task}"
        written = _convert({} if raw_task is None else raw_task, _WrittenTask, path)
        tasks[task] = _override(written, path)
        for vo, raw_vo in (written.vos or {}).items():
            vo_path = f"{path}.vos.{vo}"
            task_vos[task, vo] = _override(_convert({} if raw_vo is None else raw_vo, _Written, vo_path), vo_path)
    if file.vos is not None and "" in file.vos:
        raise ConfigurationError("vos: the name of a VO is empty")
    return Configuration(vos=None if file.vos is None else tuple(file.vos), tasks=tasks, task_vos=task_vos)


def _override(written: _Written, path: str) -> Override:
    if written.concurrency_limit is not None and written.concurrency_limit < 1:
        raise ConfigurationError(f"{path}.concurrency_limit: {written.concurrency_limit} must be 1 or more")
    schedule = None
    if written.schedule is not None:
        try:
            schedule = written.schedule.schedule()
        except TaskDefinitionError as error:
            raise ConfigurationError(f"{path}.schedule: {error}") from None
    return Override(
        enabled=written.enabled,
        schedule=schedule,
        rate_limit=written.rate_limit,
        concurrency_limit=written.concurrency_limit,
        path=path,
    )


def _convert(raw: Any, kind: type[Any], path: str) -> Any:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        # The text of the error ends with a relative path: `... - at `$.schedule.cron``.
        text, _, inner = str(error).partition(" - at `$")
        where = f"{path}{inner.rstrip('`')}".lstrip(".")
        raise ConfigurationError(f"{where or 'the configuration'}: {text}") from None
