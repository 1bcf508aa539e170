"""Our layout of the file, and the errors of an invalid one."""

from __future__ import annotations

import pytest

from diracx.tasks.plumbing.overrides.configuration import (
    Configuration,
    ConfigurationError,
    Entry,
    Limit,
    LimitKind,
    ObjectLimits,
    Override,
    RateLimit,
)
from diracx.tasks.plumbing.overrides.layouts import parse
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

LIMITS = """
limits:
  Transformation:
    default: {concurrency_limit: 10}
    12345: {concurrency_limit: 5}
  StorageElement:
    default:
      RemoveFile: {concurrency_limit: 5}
    "CERN-DST":
      rate_limit: {limit: 9, window_seconds: 1}
      RemoveFile:
        rate_limit: {limit: 3, window_seconds: 60}
        Slowly: {concurrency_limit: 1}
  Task:
    SubmitPilots: {concurrency_limit: 2}
vo_limits:
  lhcb:
    Transformation:
      default: {concurrency_limit: 3}
    Task:
      SubmitPilots: {rate_limit: {limit: 1, window_seconds: 5}}
tasks:
  SubmitPilots:
    enabled: true
    vos:
      lhcb: {enabled: false}
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
    assert of_vo.path == "tasks.lollygag:OwnerReportTask.vos.my vo.org"


@pytest.mark.parametrize("text", ["{}", "vos:\ntasks:\nlimits:\nvo_limits:\n"])
def test_a_configuration_may_set_nothing(text: str) -> None:
    assert parse(text) == Configuration()


def test_an_empty_list_of_vos_means_no_vo() -> None:
    assert parse("vos: []").vos == ()


def test_each_kind_of_schedule_can_be_written() -> None:
    written = "tasks: {t: {schedule: {rrule: 'DTSTART:20260101T060000Z RRULE:FREQ=DAILY'}}}"
    assert isinstance(parse(written).tasks["t"].schedule, RRuleSchedule)
    assert parse("tasks: {t: {schedule: {cron: '@daily'}}}").tasks["t"].schedule == CronSchedule("@daily")
    assert parse("tasks: {t: {schedule: {interval: 1}}}").tasks["t"].schedule == IntervalSeconds(1)


def test_limits_of_objects_are_read_by_type_key_and_parts() -> None:
    assert parse(LIMITS).objects == {
        ("", "transformation", "default"): ObjectLimits(concurrency_limit=10, path="limits.Transformation.default"),
        ("", "transformation", "12345"): ObjectLimits(concurrency_limit=5, path="limits.Transformation.12345"),
        ("", "storageelement", "default", "RemoveFile"): ObjectLimits(
            concurrency_limit=5, path="limits.StorageElement.default.RemoveFile"
        ),
        ("", "storageelement", "CERN-DST"): ObjectLimits(
            rate_limit=RateLimit(9, 1), path="limits.StorageElement.CERN-DST"
        ),
        ("", "storageelement", "CERN-DST", "RemoveFile"): ObjectLimits(
            rate_limit=RateLimit(3, 60), path="limits.StorageElement.CERN-DST.RemoveFile"
        ),
        ("", "storageelement", "CERN-DST", "RemoveFile", "Slowly"): ObjectLimits(
            concurrency_limit=1, path="limits.StorageElement.CERN-DST.RemoveFile.Slowly"
        ),
        ("lhcb", "transformation", "default"): ObjectLimits(
            concurrency_limit=3, path="vo_limits.lhcb.Transformation.default"
        ),
    }


def test_limits_below_the_type_task_are_those_of_the_task() -> None:
    configuration = parse(LIMITS)
    concurrency = configuration.task_limit(LimitKind.CONCURRENCY, "pilots:SubmitPilots", "lhcb")
    assert concurrency == Limit(LimitKind.CONCURRENCY, 2, "", "limits.Task.SubmitPilots")
    rate = configuration.task_limit(LimitKind.RATE, "pilots:SubmitPilots", "lhcb")
    assert rate == Limit(LimitKind.RATE, RateLimit(1, 5), "lhcb", "vo_limits.lhcb.Task.SubmitPilots")
    of_vo = configuration.override("pilots:SubmitPilots", "lhcb")
    assert (of_vo.enabled, of_vo.path) == (False, "tasks.SubmitPilots.vos.lhcb")
    alone = parse("limits: {task: {pilots:SubmitPilots: {concurrency_limit: 1}}}")
    assert alone.override("pilots:SubmitPilots").path == "limits.task.pilots:SubmitPilots"


def test_entries_are_schedules_with_arguments_of_their_own() -> None:
    text = """
    tasks:
      SubmitPilots:
        schedule: {interval: 60}
        entries:
          CERN: {args: {ce_regex: ".*cern.*", since: 2026-01-02, 1: one}, schedule: {interval: 7200}, enabled: true}
          RAL:
        vos:
          atlas: {entries: {only: {enabled: false}}}
    """
    configuration = parse(text)
    assert configuration.override("pilots:SubmitPilots", "lhcb").entries == {
        "CERN": Entry(
            args={"ce_regex": ".*cern.*", "since": "2026-01-02", "1": "one"},
            schedule=IntervalSeconds(7200),
            enabled=True,
            path="tasks.SubmitPilots.entries.CERN",
        ),
        "RAL": Entry(path="tasks.SubmitPilots.entries.RAL"),
    }
    of_vo = configuration.override("pilots:SubmitPilots", "atlas")
    assert of_vo.entries == {"only": Entry(enabled=False, path="tasks.SubmitPilots.vos.atlas.entries.only")}
    assert of_vo.schedule == IntervalSeconds(60)


def test_a_key_without_a_value_is_not_written() -> None:
    text = "tasks: {X: {enabled: , schedule: , rate_limit: , concurrency_limit: , entries: , vos: }}"
    assert parse(text).tasks == {"X": Override(path="tasks.X")}
    assert parse("limits: {Job: {default: {rate_limit: , a: }, b: }}").objects == {
        ("", "job", "default"): ObjectLimits(path="limits.Job.default")
    }


BAD_TASKS = [
    ("vo: [lhcb]", "vo: unknown key; did you mean vos"),
    ("- lhcb", "the configuration: write a mapping .* not a list"),
    ("vos: lhcb", "vos: Expected `array"),
    ("vos: [lhcb, 1]", r"vos\[1\]: Expected `str`"),
    ("vos: ['']", "vos: the name of a VO is empty"),
    ("vos: [lhcb, atlas, lhcb]", "vos: 'lhcb' stands twice; remove one"),
    ('vos: [lhcb, "a\\nb"]', r"vos: the name 'a\\nb' has a character that cannot be printed"),
    ("tasks: {a:B: {enabld: true}}", "tasks.a:B.enabld: unknown key; did you mean enabled"),
    ("tasks: {a:B: {xyz: true}}", "tasks.a:B.xyz: unknown key; known here: enabled, schedule, rate_limit, "),
    ("tasks: {a:B: {enabled: 1}}", "tasks.a:B.enabled: Expected `bool"),
    ("tasks: {a:B: [1]}", "tasks.a:B: write a mapping"),
    ("tasks: {'': {}}", "tasks: a key is empty"),
    ("tasks: {':B': {}}", "tasks.:B: ':B' is no name of a task; write <category>:<ClassName>"),
    ("tasks: {a:B: {}, B: {}}", "tasks.a:B: the same task as tasks.B; use one name, a:B or B"),
    ("tasks: {B: {vos: {x: {}}}}\nvo_limits: {y: {Task: {a:B: {}}}}", "vo_limits.y.Task.a:B: the same task as tasks.B"),
    ("tasks: {a:B: {schedule: {}}}", "tasks.a:B.schedule: write one of cron, interval .* and rrule, not 0"),
    ("tasks: {a:B: {schedule: {cron: '@daily', interval: 1}}}", "tasks.a:B.schedule: .* not 2"),
    ("tasks: {a:B: {schedule: {cron: '61 * * * *'}}}", r"tasks.a:B.schedule: cron '61 \* \* \* \*'"),
    ("tasks: {a:B: {schedule: {crn: '@daily'}}}", "tasks.a:B.schedule.crn: unknown key; did you mean cron"),
    ("tasks: {a:B: {schedule: {interval: 0}}}", "tasks.a:B.schedule: IntervalSeconds"),
    ("tasks: {a:B: {schedule: {interval: 1e-6}}}", "tasks.a:B.schedule.interval: Expected `float"),
    ("tasks: {a:B: {schedule: {interval: 0.999}}}", "tasks.a:B.schedule: an interval of 0.999 s is too short"),
    ("tasks: {a:B: {schedule: {interval: .nan}}}", "tasks.a:B.schedule: IntervalSeconds"),
    ("tasks: {a:B: {schedule: {interval: 5, timezone: UTC}}}", "tasks.a:B.schedule: timezone goes with cron"),
    ("tasks: {a:B: {schedule: {cron: '@daily', timezone: Nowhere}}}", "tasks.a:B.schedule: unknown time zone"),
    ("tasks: {a:B: {schedule: {cron: '@daily', timezone: ''}}}", "tasks.a:B.schedule: unknown time zone ''"),
    ("tasks: {a:B: {rate_limit: {limit: 1}}}", "tasks.a:B.rate_limit: .*missing required field `window_seconds`"),
    ("tasks: {a:B: {rate_limit: {limit: 0, window_seconds: 1}}}", "tasks.a:B.rate_limit: `limit` must be 1"),
    ("tasks: {a:B: {rate_limit: {limit: 1, window_seconds: 0}}}", "tasks.a:B.rate_limit: `window_seconds`"),
    ("tasks: {a:B: {rate_limit: {limit: 1, window_seconds: 3.1e+9}}}", "tasks.a:B.rate_limit: .* 3000000000 at the"),
    ("tasks: {a:B: {rate_limit: {limit: x, window_seconds: 1}}}", "tasks.a:B.rate_limit.limit: Expected `int`"),
    ("tasks: {a:B: {concurrency_limit: 0}}", "tasks.a:B.concurrency_limit: 0 must be 1 or more"),
    ("tasks: {a:B: {vos: {my vo.org: {vos: {}}}}}", "tasks.a:B.vos.my vo.org.vos: unknown key; known here"),
    ("tasks: {a:B: {vos: {'': {}}}}", "tasks.a:B.vos: a key is empty"),
    ("tasks: {a:B: {vos: {x: {schedule: {rrule: FREQ=NEVER}}}}}", "tasks.a:B.vos.x.schedule: rrule 'FREQ=NEVER'"),
    ("tasks: {a:B: {entries: {}}}", "tasks.a:B.entries: names no entry; .* `enabled: false`"),
    ("tasks: {a:B: {entries: [x]}}", "tasks.a:B.entries: write a mapping"),
    ("tasks: {a:B: {entries: {x: {arg: {}}}}}", "tasks.a:B.entries.x.arg: unknown key; did you mean args"),
    ("tasks: {a:B: {entries: {x: {args: [1]}}}}", "tasks.a:B.entries.x.args: write a mapping"),
    ("tasks: {a:B: {entries: {x: {args: {a: .inf}}}}}", "tasks.a:B.entries.x.args: not a value of JSON: "),
    ("tasks: {a:B: {entries: {x: {schedule: {interval: .5}}}}}", "tasks.a:B.entries.x.schedule: an interval of 0.5 s"),
]

BAD_LIMITS = [
    ("limits: [1]", "limits: write a mapping"),
    ("limits: {Job: 5}", "limits.Job: write a mapping .*, not a number"),
    ("limits: {Job: {'': {}}}", "limits.Job: a key is empty"),
    ("limits: {Job: {default: 5}}", "limits.Job.default: write a mapping"),
    ("limits: {Job: {default: {concurency_limit: 5}}}", "limits.Job.default.concurency_limit: .*concurrency_"),
    ("limits: {Job: {default: {concurrency_limit: 0}}}", "limits.Job.default.concurrency_limit: 0 must be 1 or more"),
    ("limits: {Job: {a: {b: {rate_limit: 5}}}}", "limits.Job.a.b.rate_limit: write a mapping"),
    ("limits: {Job: {concurrency_limit: 5}}", "limits.Job.concurrency_limit: .*limits.Job.default.concurrency_limit"),
    ("limits: {rate_limit: {Job: {a: 1}}}", "limits.rate_limit: .* write it at limits.Job.a.rate_limit"),
    ("limits: {rate_limit: 1}", "limits.rate_limit: .* write it at limits.<Type>.default.rate_limit"),
    ("limits: {rate_limit: {limit: 1}}", "limits.rate_limit: .* write it at limits.<Type>.default.rate_limit"),
    ("limits: {rate_limit: {Job: 1}}", "limits.rate_limit: .* write it at limits.Job.default.rate_limit"),
    ("limits: {StorageElement: {}, storage_element: {}}", "limits.storage_element: the same type as limits.StorageEl"),
    ("limits: {Task: {default: {concurrency_limit: 1}}}", "limits.Task.default: no limit holds for all tasks together"),
    ("limits: {Task: {X: {part: {concurrency_limit: 1}}}}", "limits.Task.X.part: unknown key; known here: rate_limit"),
    (
        "tasks: {X: {concurrency_limit: 1}}\nlimits: {Task: {X: {concurrency_limit: 1}}}",
        "limits.Task.X: tasks.X has limits of the same task; keep one place",
    ),
    (
        "tasks: {X: {vos: {v: {concurrency_limit: 1}}}}\nvo_limits: {v: {Task: {X: {rate_limit: }}}}",
        "vo_limits.v.Task.X: tasks.X.vos.v has limits of the same task",
    ),
    ("vo_limits: {v: {Job: 5}}", "vo_limits.v.Job: write a mapping"),
]


@pytest.mark.parametrize(("text", "message"), BAD_TASKS + BAD_LIMITS)
def test_a_bad_configuration_is_refused_with_the_path(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        parse(text)
