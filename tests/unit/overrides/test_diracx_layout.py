"""DiracX's layout of the file: that of its release 0.7, and that of its decision record."""

from __future__ import annotations

import textwrap

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
from diracx.tasks.plumbing.overrides.diracx_layout import PeriodicTaskConfig, TaskOverride, TasksConfig
from diracx.tasks.plumbing.overrides.layouts import parse
from diracx.tasks.plumbing.schedules import CronSchedule, IntervalSeconds, RRuleSchedule

RELEASE = """
common:
  Report:
    enabled: true
    rate_limit: 100
    rate_window_seconds: 60
    concurrency_limit: 50
    periodic: {enabled: true, schedule: "0 0 * * *", interval_seconds: 3600}
  Clean:
    periodic: {interval_seconds: 90}
vo-overrides:
  lhcb:
    Report: {rate_limit: 200}
    Clean: {periodic: {enabled: false}}
  atlas:
    Report: {rate_window_seconds: 30, periodic: {interval_seconds: 7}}
"""

RECORD = """
common:
  periodic-tasks:
    SubmitPilots:
      - args: {ce_regex: ".*"}
        enabled: True
  limits:
    Task:
      SubmitPilots:
        ConcurrencyLimiter: {limit: 2}
        RateLimiter: {limit: 10, window_seconds: 3600}
    StorageElement:
      default:
        CreateFile: {ConcurrencyLimiter: {limit: 5}}
      "CERN-DST":
        RemoveFile: {RateLimiter: {limit: 3, window_seconds: 60}}
    Transformation:
      default: {ConcurrencyLimiter: {limit: 10}}
      "12345": {ConcurrencyLimiter: {limit: 5}}
vo-overrides:
  lhcb:
    periodic-tasks:
      SubmitPilots:
        - name: CERN
          schedule: {class: RRuleSchedule, arg: "FREQ=HOURLY;INTERVAL=2"}
          args: {ce_regex: .*.cern.ch}
        - name: RAL
          schedule: {class: CronSchedule, arg: "0 */6 * * *"}
          args: {ce_regex: .*.ral.ac.uk}
        - schedule: {class: IntervalSecondsSchedule, arg: 60}
        - name: often
          schedule: {class: IntervalSeconds, arg: 1.5}
    limits:
      Task:
        CheckPilotStatus:
          ConcurrencyLimiter: {limit: 10_000}
"""


def below_tasks(text: str) -> str:
    return "tasks:\n" + textwrap.indent(text, "  ")


def test_the_settings_of_the_release_are_those_of_the_task() -> None:
    configuration = parse(RELEASE)
    assert configuration.override("x:Report") == Override(
        enabled=True,
        rate_limit=RateLimit(100, 60),
        concurrency_limit=50,
        schedule=CronSchedule("0 0 * * *"),
        path="common.Report",
        periodic_path="common.Report.periodic",
    )
    clean = configuration.override("x:Clean")
    assert (clean.enabled, clean.schedule) == (None, IntervalSeconds(90))


def test_the_settings_for_a_vo_are_merged_over_the_common_ones_key_by_key() -> None:
    configuration = parse(RELEASE)
    lhcb = configuration.task_limit(LimitKind.RATE, "x:Report", "lhcb")
    assert lhcb == Limit(LimitKind.RATE, RateLimit(200, 60), "lhcb", "vo-overrides.lhcb.Report")
    atlas = configuration.task_limit(LimitKind.RATE, "x:Report", "atlas")
    assert atlas == Limit(LimitKind.RATE, RateLimit(100, 30), "atlas", "vo-overrides.atlas.Report")
    concurrency = configuration.task_limit(LimitKind.CONCURRENCY, "x:Report", "atlas")
    assert concurrency == Limit(LimitKind.CONCURRENCY, 50, "", "common.Report")
    assert configuration.override("x:Report", "atlas").schedule == IntervalSeconds(7)
    assert configuration.override("x:Clean", "lhcb").schedule == IntervalSeconds(90)
    assert configuration.override("x:Clean", "lhcb").enabled is False


@pytest.mark.parametrize(
    ("common", "vo", "for_all", "for_vo"),
    [
        ("", "", None, None),
        ("concurrency_limit: 1", "concurrency_limit: 2", None, None),
        ("periodic: {interval_seconds: 5}", "periodic: {}", None, None),
        ("enabled: false", "concurrency_limit: 2", False, False),
        ("enabled: false", "enabled: true", False, True),
        ("enabled: true", "periodic: {enabled: false}", True, False),
        ("periodic: {enabled: false}", "enabled: true", False, False),
        ("enabled: false", "periodic: {enabled: true}", False, False),
        ("enabled: false, periodic: {enabled: false}", "enabled: true, periodic: {enabled: true}", False, True),
        ("enabled: true, periodic: {enabled: false}", "periodic: {interval_seconds: 5}", False, False),
    ],
)
def test_a_task_is_enabled_if_it_is_written_and_neither_of_its_two_keys_is_false(
    common: str, vo: str, for_all: bool | None, for_vo: bool | None
) -> None:
    configuration = parse(f"common: {{X: {{{common}}}}}\nvo-overrides: {{lhcb: {{X: {{{vo}}}}}}}")
    assert configuration.override("x:X").enabled is for_all
    assert configuration.override("x:X", "lhcb").enabled is for_vo


def test_the_lists_of_the_decision_record_are_entries() -> None:
    configuration = parse(RECORD)
    assert configuration.override("pilots:SubmitPilots", "atlas").entries == {
        "": Entry(args={"ce_regex": ".*"}, enabled=True, path="common.periodic-tasks.SubmitPilots[0]")
    }
    path = "vo-overrides.lhcb.periodic-tasks.SubmitPilots"
    of_vo = configuration.override("pilots:SubmitPilots", "lhcb")
    assert of_vo.path == path
    assert of_vo.entries == {
        "CERN": Entry(
            args={"ce_regex": ".*.cern.ch"}, schedule=RRuleSchedule("FREQ=HOURLY;INTERVAL=2"), path=f"{path}[0]"
        ),
        "RAL": Entry(args={"ce_regex": ".*.ral.ac.uk"}, schedule=CronSchedule("0 */6 * * *"), path=f"{path}[1]"),
        "": Entry(schedule=IntervalSeconds(60), path=f"{path}[2]"),
        "often": Entry(schedule=IntervalSeconds(1.5), path=f"{path}[3]"),
    }


def test_the_limits_of_the_decision_record_are_those_of_objects_and_tasks() -> None:
    configuration = parse(RECORD)
    assert configuration.objects == {
        ("", "storageelement", "default", "CreateFile"): ObjectLimits(
            concurrency_limit=5, path="common.limits.StorageElement.default.CreateFile"
        ),
        ("", "storageelement", "CERN-DST", "RemoveFile"): ObjectLimits(
            rate_limit=RateLimit(3, 60), path="common.limits.StorageElement.CERN-DST.RemoveFile"
        ),
        ("", "transformation", "default"): ObjectLimits(
            concurrency_limit=10, path="common.limits.Transformation.default"
        ),
        ("", "transformation", "12345"): ObjectLimits(concurrency_limit=5, path="common.limits.Transformation.12345"),
    }
    rate = configuration.task_limit(LimitKind.RATE, "pilots:SubmitPilots", "lhcb")
    assert rate == Limit(LimitKind.RATE, RateLimit(10, 3600), "", "common.limits.Task.SubmitPilots")
    concurrency = configuration.task_limit(LimitKind.CONCURRENCY, "pilots:CheckPilotStatus", "lhcb")
    path = "vo-overrides.lhcb.limits.Task.CheckPilotStatus"
    assert concurrency == Limit(LimitKind.CONCURRENCY, 10_000, "lhcb", path)
    assert configuration.task_limit(LimitKind.CONCURRENCY, "pilots:CheckPilotStatus", "atlas") is None


def test_a_limit_for_one_vo_counts_for_its_objects() -> None:
    text = "vo_overrides: {lhcb: {limits: {Job: {default: {ConcurrencyLimiter: {limit: 1}}}}}}"
    found = parse(text).object_limit(LimitKind.CONCURRENCY, "job", ("5",), "lhcb")
    assert found == Limit(LimitKind.CONCURRENCY, 1, "lhcb", "vo_overrides.lhcb.limits.Job.default")


@pytest.mark.parametrize("text", [RELEASE, RECORD])
def test_the_layout_may_stand_below_tasks_and_vo_overrides_in_either_spelling(text: str) -> None:
    at_top, below = parse(text), parse(f"vos: [lhcb]\n{below_tasks(text).replace('vo-overrides', 'vo_overrides')}")
    assert below.vos == ("lhcb",)
    assert below.tasks.keys() == at_top.tasks.keys()
    assert below.task_vos.keys() == at_top.task_vos.keys()
    assert below.objects.keys() == at_top.objects.keys()
    for name, override in at_top.tasks.items():
        assert below.tasks[name].path == f"tasks.{override.path}"
        assert below.tasks[name].rate_limit == override.rate_limit


@pytest.mark.parametrize("text", ["common: {}", "common:\nvo-overrides:", "tasks: {common: }"])
def test_the_layout_may_set_nothing(text: str) -> None:
    assert parse(text) == Configuration()


def test_a_key_that_is_null_is_not_written() -> None:
    text = """
    common:
      X: {enabled: , rate_limit: 5, rate_window_seconds: 60, concurrency_limit: , periodic: }
      limits: {Task: {Y: {RateLimiter: }}}
      periodic-tasks: {Z: [{name: , args: , schedule: , enabled: }]}
    vo-overrides: {lhcb: {X: {rate_limit: , rate_window_seconds: 5}}, atlas: {X: {rate_limit: }}, cms: }
    """
    configuration = parse(text)
    assert configuration.override("x:X", "lhcb").rate_limit == RateLimit(5, 5)
    assert configuration.override("x:X", "atlas").rate_limit == RateLimit(5, 60)
    assert configuration.override("x:Y") == Override(path="common.limits.Task.Y", limits_path="common.limits.Task.Y")
    assert configuration.override("x:Z").entries == {"": Entry(path="common.periodic-tasks.Z[0]")}


def test_a_common_window_waits_for_the_limit_of_a_vo() -> None:
    text = "common: {X: {rate_window_seconds: 60}}\nvo-overrides: {lhcb: {X: {rate_limit: 5}}}"
    assert parse(text).task_limit(LimitKind.RATE, "x:X") is None
    of_vo = parse(text).task_limit(LimitKind.RATE, "x:X", "lhcb")
    assert of_vo == Limit(LimitKind.RATE, RateLimit(5, 60), "lhcb", "vo-overrides.lhcb.X")


ARGS_BESIDE = """
common:
  periodic-tasks:
    SubmitPilots:
      - args:
        ce_regex: .*
        enabled: True
"""

LIMITER_FIRST = """
vo-overrides:
  lhcb:
    limits:
      ConcurrencyLimiter:
        Task:
          CheckPilotStatus: {limit: 10_000, window_seconds: 3600}
"""

ENTRIES = "common.periodic-tasks.X"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            ARGS_BESIDE,
            r"common\.periodic-tasks\.SubmitPilots\[0\]\.ce_regex: .* `args`; .*Pilots\[0\]\.args\.ce_regex$",
        ),
        (
            LIMITER_FIRST,
            "vo-overrides.lhcb.limits.ConcurrencyLimiter: .*vo-overrides.lhcb.limits.Task.CheckPilotStatus.Concurrency",
        ),
        ("common: [1]", "common: write a mapping"),
        ("common: {X: 5}", "common.X: write a mapping"),
        ("common: {X: {enabld: true}}", "common.X.enabld: unknown key; did you mean enabled"),
        ("common: {X: {enabled: 1}}", "common.X.enabled: Expected `bool`"),
        ("common: {X: {rate_limit: 1.5}}", "common.X.rate_limit: Expected `int"),
        ("common: {X: {rate_limit: 0}}", "common.X.rate_limit: 0 must be 1 or more"),
        ("common: {X: {rate_limit: 5, rate_window_seconds: 0}}", "common.X.rate_window_seconds: 0 must be 1"),
        ("common: {X: {concurrency_limit: 0}}", "common.X.concurrency_limit: 0 must be 1 or more"),
        ("common: {X: {rate_limit: 5}}", "common.X.rate_limit: has no window; write e.g. `rate_window_seconds: 60`"),
        ("common: {X: {rate_window_seconds: 5}}", "common.X.rate_window_seconds: bounds nothing"),
        (
            "vo_overrides: {a: {X: {rate_window_seconds: 5}}, b: {X: {rate_limit: 1, rate_window_seconds: 5}}}",
            "vo_overrides.a.X.rate_window_seconds: bounds nothing",
        ),
        ("common: {X: {periodic: {cron: '@daily'}}}", "common.X.periodic.cron: unknown key; known here: enabled, "),
        ("common: {X: {periodic: {schedule: 61}}}", "common.X.periodic.schedule: Expected `str"),
        ("common: {X: {periodic: {schedule: '61 * * * *'}}}", "common.X.periodic.schedule: cron "),
        ("common: {X: {periodic: {interval_seconds: 0}}}", "common.X.periodic.interval_seconds: IntervalSeconds"),
        ("vo-overrides: {'': {}}", "vo-overrides: a key is empty"),
        ("vo-overrides: {a: {}}\nvo_overrides: {b: {}}", "vo_overrides: the same as vo-overrides; keep one"),
        ("common: {X: {}, a:X: {}}", "common.a:X: the same task as common.X"),
        ("vo-overrides: {a: {a:X: {}}, b: {X: {}}}", "vo-overrides.a.a:X: the same task as vo-overrides.b.X"),
        (
            "common: {X: {concurrency_limit: 1}, limits: {Task: {X: {ConcurrencyLimiter: {limit: 1}}}}}",
            "common.limits.Task.X: common.X has limits of the same task",
        ),
        (
            "common: {limits: {Job: {a: {ConcurrencyLimiter: {}}}}}",
            "common.limits.Job.a.ConcurrencyLimiter: write `limi",
        ),
        (
            "common: {limits: {Job: {a: {ConcurrencyLimiter: 5}}}}",
            "common.limits.Job.a.ConcurrencyLimiter: write a map",
        ),
        ("common: {limits: {Job: {a: {concurrency_limit: 5}}}}", "common.limits.Job.a.concurrency_limit: .*mean Concu"),
        (
            "common: {limits: {Job: {a: {RateLimiter: {limit: 5}}}}}",
            "common.limits.Job.a.RateLimiter: .*window_seconds",
        ),
        ("common: {periodic-tasks: {X: {a: {}}}}", f"{ENTRIES}: write a list of entries"),
        ("common: {periodic-tasks: {X: []}}", f"{ENTRIES}: write a list of entries"),
        ("common: {periodic-tasks: {X: [5]}}", rf"{ENTRIES}\[0\]: write a mapping"),
        ("common: {periodic-tasks: {X: [{arg: {}}]}}", rf"{ENTRIES}\[0\]\.arg: unknown key; did you mean args"),
        ("common: {periodic-tasks: {X: [{name: 5}]}}", rf"{ENTRIES}\[0\]\.name: Expected `str"),
        ("common: {periodic-tasks: {X: [{name: a}, {name: a}]}}", rf"{ENTRIES}\[1\]: is named 'a' like {ENTRIES}\[0\]"),
        ("common: {periodic-tasks: {X: [{}, {name: ''}]}}", rf"{ENTRIES}\[1\]: has no name like {ENTRIES}\[0\]"),
        ("common: {periodic-tasks: {X: [{schedule: '@daily'}]}}", rf"{ENTRIES}\[0\]\.schedule: write a mapping"),
        ("common: {periodic-tasks: {X: [{schedule: {class: CronSchedule}}]}}", rf"{ENTRIES}\[0\]\.schedule: write `cl"),
        (
            "common: {periodic-tasks: {X: [{schedule: {class: Cron, arg: '@daily'}}]}}",
            rf"{ENTRIES}\[0\]\.schedule\.class: no schedule is named 'Cron'; write CronSchedule",
        ),
        (
            "common: {periodic-tasks: {X: [{schedule: {class: IntervalSeconds, arg: '5'}}]}}",
            rf"{ENTRIES}\[0\]\.schedule\.arg: Expected `float",
        ),
        (
            "common: {periodic-tasks: {X: [{schedule: {class: IntervalSeconds, arg: 0.5}}]}}",
            rf"{ENTRIES}\[0\]\.schedule: an interval of 0.5 s is too short",
        ),
        ("common: {}\ntasks: {}", "tasks: belongs to another layout of the file than common; write all of it in one"),
        ("vo-overrides: {}\nvo_limits: {}", "vo_limits: belongs to another layout of the file than vo-overrides"),
        ("tasks: {common: {}, a:X: {}}", "tasks.a:X: belongs to another layout of the file than tasks.common"),
        ("tasks: {common: {}}\nlimits: {}", "limits: belongs to another layout of the file than tasks.common"),
        ("commn: {}", "commn: unknown key; did you mean common"),
        ("common: {}\nvos: 5", "vos: Expected `array`"),
    ],
)
def test_a_bad_configuration_is_refused_with_the_path(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        parse(text)


def test_the_classes_of_diracx_have_its_fields_and_defaults() -> None:
    assert TasksConfig() == TasksConfig(common={}, vo_overrides={})
    override = TaskOverride()
    assert override.enabled is True
    assert (override.rate_limit, override.rate_window_seconds, override.concurrency_limit) == (None, None, None)
    assert override.periodic is None
    periodic = PeriodicTaskConfig()
    assert (periodic.enabled, periodic.schedule, periodic.interval_seconds) == (True, None, None)
    written = TasksConfig(common={"X": TaskOverride(rate_limit=1, periodic=PeriodicTaskConfig(schedule="@daily"))})
    assert written.common["X"].periodic == PeriodicTaskConfig(schedule="@daily")
