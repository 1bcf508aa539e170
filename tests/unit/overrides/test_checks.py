"""A configuration against the tasks that are installed."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import pytest

from diracx.tasks.plumbing.base_task import BaseTask, PeriodicBaseTask, PeriodicVoAwareBaseTask, TaskConfig
from diracx.tasks.plumbing.overrides.checks import Problems, problems
from diracx.tasks.plumbing.overrides.layouts import parse
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.schedules import IntervalSeconds


@dataclasses.dataclass
class SubmitPilots(PeriodicVoAwareBaseTask):
    vo: str
    ce_regex: str = ".*"
    limit: int = 1
    default_schedule = IntervalSeconds(3600)

    async def execute(self) -> None: ...


class NoTextError(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


class Recording(PeriodicBaseTask):
    """Records what its `validate_config` was asked, and answers as a test wants."""

    default_schedule = IntervalSeconds(3600)
    asked: ClassVar[list[list[TaskConfig]]] = []
    answer: ClassVar[BaseException | None] = None

    async def execute(self) -> None: ...

    @staticmethod
    def validate_config(config: list[TaskConfig]) -> None:
        Recording.asked.append(config)
        if Recording.answer is not None:
            raise Recording.answer


@dataclasses.dataclass
class RecordingPerVo(Recording, PeriodicVoAwareBaseTask):
    vo: str = ""
    ce_regex: str = ".*"


class OffByDefault(Recording):
    _enabled = False


class Async(PeriodicBaseTask):
    default_schedule = IntervalSeconds(3600)

    async def execute(self) -> None: ...

    @staticmethod
    async def validate_config(config: list[TaskConfig]) -> None:  # type: ignore[override]
        raise AssertionError("it is not asked")


@dataclasses.dataclass
class SyncOwners(BaseTask):
    owner: str
    vo: str = ""

    async def execute(self) -> None: ...


def found(text: str) -> Problems:
    registry = TaskRegistry()
    for task_class in (SubmitPilots, Recording, RecordingPerVo, OffByDefault, Async, SyncOwners):
        registry.add(f"test:{task_class.__name__}", task_class)
    return problems(parse(text), registry)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[TaskConfig]]:
    calls: list[list[TaskConfig]] = []
    monkeypatch.setattr(Recording, "asked", calls)
    return calls


GOOD = """
vos: [lhcb, atlas]
tasks:
  test:SubmitPilots:
    enabled: true
    schedule: {interval: 60}
    concurrency_limit: 5
    entries:
      CERN: {args: {ce_regex: cern, limit: 3}}
    vos:
      lhcb: {enabled: false, entries: {RAL: {args: {ce_regex: ral}}}}
  SyncOwners:
    enabled: false
    rate_limit: {limit: 1, window_seconds: 1}
    vos: {lhcb: {enabled: true}}
  Recording:
    vos: {lhcb: {concurrency_limit: 1}}
limits:
  Transformation: {default: {concurrency_limit: 1}}
vo_limits:
  lhcb: {JOB: {default: {concurrency_limit: 1}}}
"""


def test_a_configuration_that_fits_has_no_problems() -> None:
    assert found(GOOD) == Problems([], [])


ENTRIES = "tasks.SubmitPilots.entries"


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        (
            "tasks: {SubmitPilots: {entries: {a: {args: {ce_regx: x}}}}}",
            [f"{ENTRIES}.a.args: SubmitPilots has no field 'ce_regx'; did you mean ce_regex?"],
        ),
        (
            "tasks: {SubmitPilots: {entries: {a: {args: {limit: x}}, b: {args: {ce_regex: 5}}}}}",
            [
                f"{ENTRIES}.a.args: Expected `int`, got `str` - at `$.limit`",
                f"{ENTRIES}.b.args: Expected `str`, got `int` - at `$.ce_regex`",
            ],
        ),
        (
            "vos: [a, b, c]\ntasks: {SubmitPilots: {entries: {a: {args: {limit: x}}}}}",
            [f"{ENTRIES}.a.args: Expected `int`, got `str` - at `$.limit`"],
        ),
        (
            "tasks: {SubmitPilots: {entries: {a: {args: {vo: lhcb}}}}}",
            [f"{ENTRIES}.a.args.vo: the scheduler sets the VO; write the entry below the VO that it is for"],
        ),
        (
            "tasks: {SubmitPilots: {vos: {lhcb: {entries: {a: {args: {limit: x}}}}}}}",
            ["tasks.SubmitPilots.vos.lhcb.entries.a.args: Expected `int`, got `str` - at `$.limit`"],
        ),
        (
            "tasks: {SyncOwners: {schedule: {interval: 5}, entries: {a: {}}}}",
            [
                "tasks.SyncOwners.schedule: test:SyncOwners is not periodic, so it has no schedule; remove it",
                "tasks.SyncOwners.entries.a: test:SyncOwners is not periodic, so it has no schedule; remove it",
            ],
        ),
        (
            "vo-overrides: {v: {SyncOwners: {periodic: {enabled: false}}}}",
            ["vo-overrides.v.SyncOwners.periodic: test:SyncOwners is not periodic, so it has no schedule; remove it"],
        ),
        (
            "tasks: {Recording: {vos: {lhcb: {enabled: false}, atlas: {schedule: {interval: 5}}}}}",
            [
                "tasks.Recording.vos.lhcb.enabled: test:Recording does not run once per VO; write it for the task",
                "tasks.Recording.vos.atlas.schedule: test:Recording does not run once per VO; write it for the task",
            ],
        ),
    ],
)
def test_what_could_never_take_effect_is_an_error(text: str, errors: list[str]) -> None:
    assert found(text) == Problems(errors, [])


def test_common_entries_are_checked_for_the_vos_that_have_none_of_their_own() -> None:
    @dataclasses.dataclass
    class Picky(SubmitPilots):
        def __post_init__(self) -> None:
            if self.vo == "atlas":
                raise ValueError(f"not for {self.vo}")

    registry = TaskRegistry()
    registry.add("test:Picky", Picky)
    text = "vos: [lhcb, atlas]\ntasks: {Picky: {entries: {a: {}}, vos: {%s: {entries: {b: {}}}}}}"
    [error] = problems(parse(text % "lhcb"), registry).errors
    assert error.startswith("tasks.Picky.entries.a.args: ")
    assert "not for atlas" in error
    [error] = problems(parse(text % "atlas"), registry).errors
    assert error.startswith("tasks.Picky.vos.atlas.entries.b.args: ")


def test_a_class_is_asked_for_the_common_schedules_and_for_those_of_each_vo(asked: list[list[TaskConfig]]) -> None:
    text = """
    tasks:
      RecordingPerVo:
        schedule: {interval: 60}
        entries: {a: {args: {ce_regex: x}, schedule: {interval: 5}}, b: {enabled: false}}
        vos:
          lhcb: {schedule: {interval: 30}}
          atlas: {enabled: false, entries: {c: {enabled: true}}}
      Recording: {concurrency_limit: 1}
    """
    assert found(text) == Problems([], [])
    a = TaskConfig(name="a", args={"ce_regex": "x"}, enabled=True, schedule=IntervalSeconds(5))
    assert asked[0] == [a, TaskConfig(name="b", enabled=False, schedule=IntervalSeconds(60))]
    assert asked[1] == [a, TaskConfig(name="b", enabled=False, schedule=IntervalSeconds(30))]
    assert asked[2] == [TaskConfig(name="c", enabled=False, schedule=IntervalSeconds(60))]
    assert asked[3] == [TaskConfig(enabled=True, schedule=IntervalSeconds(3600))]
    assert len(asked) == 4


@pytest.mark.parametrize(
    ("settings", "enabled"),
    [("", [False]), ("enabled: true", [True]), ("entries: {a: {enabled: true}, b: {}}", [True, False])],
)
def test_a_class_that_is_off_by_default_is_asked_so(
    asked: list[list[TaskConfig]], settings: str, enabled: list[bool]
) -> None:
    assert found(f"tasks: {{OffByDefault: {{{settings}}}}}") == Problems([], [])
    assert [each.enabled for each in asked[0]] == enabled


@pytest.mark.parametrize(
    ("raised", "text"),
    [
        (ValueError("the interval is\ntoo short"), "the interval is too short"),
        (KeyError(), "KeyError"),
        (SystemExit("no"), "no"),
        (NoTextError(), "<str() of it raised ZeroDivisionError>"),
    ],
)
def test_whatever_a_class_raises_is_an_error(
    monkeypatch: pytest.MonkeyPatch, asked: Any, raised: BaseException, text: str
) -> None:
    monkeypatch.setattr(Recording, "answer", raised)
    assert found("tasks: {Recording: {enabled: true}}").errors == [f"tasks.Recording: Recording refuses it: {text}"]
    of_vo = found("vo-overrides: {lhcb: {RecordingPerVo: {periodic: {interval_seconds: 5}}}}")
    assert of_vo.errors == [f"vo-overrides.lhcb.RecordingPerVo: RecordingPerVo refuses it: {text}"]


def test_a_class_that_answers_later_cannot_be_asked() -> None:
    errors = found("tasks: {Async: {}}").errors
    assert errors == ["tasks.Async: Async.validate_config is async, so it cannot be asked; write `def`"]


@pytest.mark.parametrize(
    ("text", "warnings"),
    [
        (
            "tasks: {x:SyncOwners: {vos: {lhcb: {}}}}",
            ["tasks.x:SyncOwners: no task of that name is installed here; did you mean test:SyncOwners?"],
        ),
        (
            "tasks: {SynkOwners: {}, xyz: {}}",
            [
                "tasks.SynkOwners: no task of that name is installed here; did you mean SyncOwners?",
                "tasks.xyz: no task of that name is installed here",
            ],
        ),
        (
            "vo_limits: {lhcb: {Task: {Zzz: {concurrency_limit: 1}}}}",
            ["vo_limits.lhcb.Task.Zzz: no task of that name is installed here"],
        ),
        (
            "limits: {Transformatoin: {a.b: {concurrency_limit: 1, x: {concurrency_limit: 1}}, c: {rate_limit: }}}",
            ["limits.Transformatoin: no locked type of that name is installed here; did you mean transformation?"],
        ),
        (
            "vos: [lhcb]\nvo_limits: {lhbc: {Job: {default: {concurrency_limit: 1}}}}",
            ["vo_limits.lhbc.Job.default: lhbc is not one of `vos`; did you mean lhcb?"],
        ),
        (
            "vos: [lhcb]\ntasks: {SubmitPilots: {vos: {cms: {}}}}",
            ["tasks.SubmitPilots.vos.cms: cms is not one of `vos`"],
        ),
    ],
)
def test_what_may_be_installed_elsewhere_is_a_warning(text: str, warnings: list[str]) -> None:
    assert found(text) == Problems([], warnings)
