"""The YAML of a configuration, and the errors of an invalid one."""

from __future__ import annotations

import pytest

from diracx.tasks.plumbing.overrides.configuration import Configuration, ConfigurationError, RateLimit
from diracx.tasks.plumbing.overrides.overrides import parse
from diracx.tasks.plumbing.schedules import CronSchedule, IntervalSeconds, RRuleSchedule

TEXT = """
vos: [lhcb, "my vo.org"]
tasks:
  lollygag:OwnerReportTask:
    schedule: {cron: "0 7 * * *", timezone: Europe/Zurich}
    rate_limit: {limit: 10, window_seconds: 60}
    concurrency_limit: 5
    vos:
      my vo.org:
        enabled: false
        schedule: {interval: 90}
        concurrency_limit: 1
  lollygag:OwnerCleanupTask:
"""


def test_a_setting_for_a_vo_wins_over_that_for_the_task() -> None:
    configuration = parse(TEXT)
    assert configuration.vos == ("lhcb", "my vo.org")
    of_task = configuration.override("lollygag:OwnerReportTask", "lhcb")
    assert of_task.schedule == CronSchedule("0 7 * * *", "Europe/Zurich")
    assert of_task.enabled is None
    of_vo = configuration.override("lollygag:OwnerReportTask", "my vo.org")
    assert of_vo.enabled is False
    assert of_vo.schedule == IntervalSeconds(90)
    assert of_vo.concurrency_limit == 1
    assert of_vo.rate_limit == RateLimit(limit=10, window_seconds=60)


@pytest.mark.parametrize("text", ["", "{}", "# nothing\n", "vos:\ntasks:\n"])
def test_a_configuration_may_be_empty(text: str) -> None:
    assert parse(text) == Configuration()


def test_an_empty_list_of_vos_means_no_vo() -> None:
    assert parse("vos: []").vos == ()


def test_each_kind_of_schedule_can_be_written() -> None:
    written = "tasks: {t: {schedule: {rrule: 'DTSTART:20260101T060000Z RRULE:FREQ=DAILY'}}}"
    assert isinstance(parse(written).override("t").schedule, RRuleSchedule)
    assert parse("tasks: {t: {schedule: {cron: '@daily'}}}").override("t").schedule == CronSchedule("@daily")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vo: [lhcb]", "the configuration: Object contains unknown field `vo`"),
        ("- lhcb", "the configuration: Expected `object`"),
        ("vos: lhcb", "vos: Expected `array"),
        ("vos: [lhcb, 1]", r"vos\[1\]: Expected `str`"),
        ("vos: ['']", "vos: the name of a VO is empty"),
        ("tasks: {a:B: {enabld: true}}", "tasks.a:B: Object contains unknown field `enabld`"),
        ("tasks: {a:B: {enabled: 1}}", "tasks.a:B.enabled: Expected `bool"),
        ("tasks: {a:B: [1]}", "tasks.a:B: Expected `object`"),
        ("tasks: {a:B: {schedule: {}}}", "tasks.a:B.schedule: write one of cron, interval .* and rrule, not 0"),
        ("tasks: {a:B: {schedule: {cron: '@daily', interval: 1}}}", "tasks.a:B.schedule: .* not 2"),
        ("tasks: {a:B: {schedule: {cron: '61 * * * *'}}}", r"tasks.a:B.schedule: cron '61 \* \* \* \*'"),
        ("tasks: {a:B: {schedule: {interval: 0}}}", "tasks.a:B.schedule: IntervalSeconds"),
        ("tasks: {a:B: {schedule: {interval: 5, timezone: UTC}}}", "tasks.a:B.schedule: timezone goes with cron"),
        ("tasks: {a:B: {schedule: {cron: '@daily', timezone: Nowhere}}}", "tasks.a:B.schedule: unknown time zone"),
        ("tasks: {a:B: {rate_limit: {limit: 1}}}", "tasks.a:B.rate_limit: .*missing required field `window_seconds`"),
        ("tasks: {a:B: {rate_limit: {limit: 0, window_seconds: 1}}}", "tasks.a:B.rate_limit: `limit` must be 1"),
        ("tasks: {a:B: {rate_limit: {limit: 1, window_seconds: 0}}}", "tasks.a:B.rate_limit: `window_seconds`"),
        ("tasks: {a:B: {concurrency_limit: 0}}", "tasks.a:B.concurrency_limit: 0 must be 1 or more"),
        ("tasks: {a:B: {vos: {my vo.org: {vos: {}}}}}", "tasks.a:B.vos.my vo.org: Object contains unknown field `vos`"),
        ("tasks: {a:B: {vos: {x: {schedule: {rrule: FREQ=NEVER}}}}}", "tasks.a:B.vos.x.schedule: rrule 'FREQ=NEVER'"),
        ("vos: [", "the configuration is not YAML"),
        ("vos: 2026-13-45", "the configuration is not YAML: month must be in 1..12"),
    ],
)
def test_a_bad_configuration_is_refused_with_the_path(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        parse(text)
