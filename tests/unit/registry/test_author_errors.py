"""What an author reads who has made a mistake: one line that names the class, the cause and the fix, at load time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from diracx.core import extensions

from diracx.tasks.cli.app import run
from diracx.tasks.plumbing.base_task import PeriodicBaseTask
from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.registry import TaskRegistry
from support.distributions import install_metadata

HEAD = """
import dataclasses
import enum
from pydantic import AnyUrl, BaseModel
from diracx.tasks.plumbing.base_task import BaseTask, PeriodicBaseTask, PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.enums import Priority
from diracx.tasks.plumbing.lock_registry import LockedObjectType
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff, RetryPolicyBase
from diracx.tasks.plumbing.schedules import CronSchedule, IntervalSeconds, RRuleSchedule

"""
NEWLINE = "\n"
GOOD = "class Sync(BaseTask):\n    async def execute(self): ...\n"
PER_VO = (
    "@dataclasses.dataclass\nclass Sync(PeriodicVoAwareBaseTask):\n    vo: {}\n"
    "    default_schedule = IntervalSeconds(60)\n    async def execute(self): ...\n"
)
FIELD = "@dataclasses.dataclass\nclass Sync(BaseTask):\n    {}\n    async def execute(self): ...\n"
PERIODIC = "class Sync(PeriodicBaseTask):\n    default_schedule = {}\n    async def execute(self): ...\n"
ASYNC_POLICY = "class Policy(RetryPolicyBase):\n    async def schedule_retry(self, attempt, exception): ...\n"

Install = Callable[..., str]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution with one module; its task goes by `garage:Sync`. Returns the name of the module."""
    monkeypatch.syspath_prepend(tmp_path)
    modules: list[str] = []

    def installed(source: str, distribution: str = "garage", entry_points: str = "") -> str:
        module = f"{distribution}_{uuid4().hex[:8]}"
        modules.append(module)
        (tmp_path / f"{module}.py").write_text(HEAD + source)
        points = f"[diracx.tasks.garage]\nSync = {module}:Sync\n\n{entry_points.format(module=module)}"
        install_metadata(tmp_path, distribution, points, folder_name=module)
        return module

    cached = (extensions.select_from_extension, extensions.extensions_by_priority)
    for function in cached:
        function.cache_clear()
    yield installed
    for function in cached:
        function.cache_clear()
    for module in modules:
        sys.modules.pop(module, None)


def problem() -> str:
    """The one problem with what is installed."""
    (found,) = [problem for problem in TaskRegistry.installed().problems if "garage" in problem]
    assert "\n" not in found
    return found


# The mistake and its source, with the parts of the reported line; {module} is the name of the module.
MISTAKES = {
    "no execute": (
        "class Sync(BaseTask):\n    pass\n",
        ["garage:Sync: {module}.Sync has no execute()", "write `async def execute(self)`"],
    ),
    "execute is not async": (
        "class Sync(BaseTask):\n    def execute(self): ...\n",
        ["garage:Sync: {module}.Sync.execute", "is not async", "write `async def"],
    ),
    "no dataclass": (
        "class Sync(BaseTask):\n    owner: str\n    async def execute(self): ...\n",
        ["garage:Sync: {module}.Sync takes arguments but is no dataclass", "put @dataclasses.dataclass above"],
    ),
    "a constructor without a dataclass": (
        "class Sync(BaseTask):\n    def __init__(self, owner): ...\n    async def execute(self): ...\n",
        ["garage:Sync: {module}.Sync takes arguments but is no dataclass", "put @dataclasses.dataclass above"],
    ),
    "no task at all": (
        "class Sync:\n    pass\n",
        ["garage:Sync: {module}.Sync is no subclass of", "base_task.BaseTask"],
    ),
    "a field that JSON cannot carry": (
        "@dataclasses.dataclass\nclass Sync(BaseTask):\n    lock: Exception\n    async def execute(self): ...\n",
        ["garage:Sync: {module}.Sync: the field $.lock", "use a dataclass"],
    ),
    "a field that only pydantic can read": (
        "@dataclasses.dataclass\nclass Sync(BaseTask):\n    url: AnyUrl\n    async def execute(self): ...\n",
        [
            "garage:Sync: {module}.Sync: the field $.url is a AnyUrl",
            "put it into a pydantic model, or make the task one",
        ],
    ),
    "an attribute of a model without an annotation": (
        "class Sync(BaseTask, BaseModel):\n    size = 3\n    async def execute(self): ...\n",
        ["garage:Sync (garage) cannot be loaded", "`size = 3`", "write e.g. `priority: ClassVar = Priority.NORMAL`"],
    ),
    "a module that fails": (
        "1 / 0\n",
        [
            "garage:Sync (garage) cannot be loaded from {module}:Sync: ZeroDivisionError",
            f"it is raised in {{module}}, line {HEAD.count(NEWLINE) + 1}; see `python -c 'import {{module}}'`",
        ],
    ),
    "a module that needs another": (
        "import no_such_module_of_ours\n",
        ["garage:Sync (garage) cannot be loaded", "no_such_module_of_ours", "python -c 'import {module}'"],
    ),
    "a name that the module lacks": (
        "class Snyc(BaseTask):\n    async def execute(self): ...\n",
        ["garage:Sync (garage) cannot be loaded from {module}:Sync", "correct the entry point in pyproject.toml"],
    ),
    "an unknown lock type": (
        f"LockedObjectType('motor')\n{GOOD}",
        [
            "garage:Sync (garage)",
            "unknown lock type 'motor'",
            "registered: job",
            "register_locked_object_type('motor')",
        ],
    ),
    "a retry policy that is a class": (
        f"{GOOD}    retry_policy = ExponentialBackoff\n",
        ["garage:Sync: {module}.Sync: retry_policy is <class", "make it an instance", "e.g. ExponentialBackoff()"],
    ),
    "a schedule that is a class": (
        PERIODIC.format("IntervalSeconds"),
        ["garage:Sync: {module}.Sync: default_schedule is <class", "make it an instance"],
    ),
    "no schedule": (
        "class Sync(PeriodicBaseTask):\n    async def execute(self): ...\n",
        ["garage:Sync: {module}.Sync: default_schedule is None", "e.g. IntervalSeconds(3600)"],
    ),
    "a cron expression that does not parse": (
        PERIODIC.format("CronSchedule('0 6 * *')"),
        [
            "garage:Sync (garage)",
            "cron '0 6 * *' has 4 fields instead of: minute hour day month weekday",
            f"; correct it in {{module}}, line {HEAD.count(NEWLINE) + 2}",
        ],
    ),
    "an unknown time zone": (
        PERIODIC.format("CronSchedule('0 6 * * *', timezone='Europe/Geneva')"),
        ["garage:Sync (garage)", "Europe/Geneva"],
    ),
    "a rule that does not parse": (
        PERIODIC.format("RRuleSchedule('FREQ=SOMETIMES')"),
        ["garage:Sync (garage)", "rrule 'FREQ=SOMETIMES' cannot be read"],
    ),
    "a priority that is none": (
        "class Sync(BaseTask):\n    priority = Priority.HIGH\n    async def execute(self): ...\n",
        ["garage:Sync (garage)", "AttributeError: ", "HIGH", "see `python -c 'import {module}'`"],
    ),
    "a number of retries that is a text": (
        f"{GOOD}    retry_policy = ExponentialBackoff(max_retries='3')\n",
        ["garage:Sync (garage)", "TypeError: ExponentialBackoff: max_retries is '3'; make it a number"],
    ),
    "a mutable default": (
        "@dataclasses.dataclass\nclass Sync(BaseTask):\n    tags: list = []\n    async def execute(self): ...\n",
        ["garage:Sync (garage)", "mutable default <class 'list'> for field tags is not allowed: use default_factory"],
    ),
    "a field without a default behind one with": (
        "@dataclasses.dataclass\nclass Sync(BaseTask):\n    a: int = 1\n    b: int\n    async def execute(self): ...\n",
        ["garage:Sync (garage)", "non-default argument 'b' follows default argument"],
    ),
    "locks without @property": (
        f"{GOOD}    def execution_locks(self): return []\n",
        ["garage:Sync: {module}.Sync.execution_locks is a method; put @property above it"],
    ),
    "an attribute that is misspelt": (
        f"{GOOD}    dlq_eligable = True\n",
        ["garage:Sync: {module}.Sync: dlq_eligable has no effect; did you mean dlq_eligible?"],
    ),
    "a VO that is a number": (
        PER_VO.format("int"),
        ["garage:Sync: {module}.Sync runs once per VO, and its field vo is int; make it `vo: str`"],
    ),
    "no field for the VO": (
        PER_VO.format("str").replace("    vo: str\n", ""),
        ["garage:Sync: {module}.Sync runs once per VO: give it the field `vo: str`"],
    ),
    "an interval of nothing": (
        PERIODIC.format("IntervalSeconds(0)"),
        ["garage:Sync (garage)", "IntervalSeconds(0): the interval must be a positive number of seconds"],
    ),
    "a field whose type is unknown to msgspec": (
        FIELD.format("lock: print"),
        ["garage:Sync: {module}.Sync: the field lock cannot be carried", "simplify its type"],
    ),
    "a field whose type is not imported": (
        FIELD.format("owner: 'Owner'"),
        ["garage:Sync: {module}.Sync: the field owner cannot be carried", "define or import the name at the top"],
    ),
    "a union of two kinds of text": (
        FIELD.format("owner: str\n    key: enum.StrEnum | str"),
        ["garage:Sync: {module}.Sync: the field key cannot be carried", "simplify its type"],
    ),
    "an InitVar": (
        FIELD.format("owner: dataclasses.InitVar[str]"),
        ["garage:Sync: {module}.Sync: a field cannot be carried: dataclasses with `InitVar` fields"],
    ),
    "keys that are tuples": (
        FIELD.format("sizes: dict[tuple[int, int], str]"),
        ["garage:Sync: {module}.Sync: the field $.sizes has keys of the type tuple, which JSON cannot carry"],
    ),
    "keys that are objects": (
        FIELD.format("sizes: dict[Exception, str]"),
        ["garage:Sync: {module}.Sync: the field $.sizes has keys of the type Exception, which JSON cannot carry"],
    ),
    "a yield in execute()": (
        "class Sync(BaseTask):\n    async def execute(self): yield 1\n",
        ["garage:Sync: {module}.Sync.execute has a `yield`", "write `return` instead"],
    ),
    "a schedule of a task that is not periodic": (
        f"{GOOD}    default_schedule = IntervalSeconds(60)\n",
        ["garage:Sync: {module}.Sync: default_schedule has no effect; derive the class from PeriodicBaseTask"],
    ),
    "a switch without its underscore": (
        f"{PERIODIC.format('IntervalSeconds(60)')}    enabled = False\n",
        ["garage:Sync: {module}.Sync: enabled has no effect; did you mean _enabled?"],
    ),
    "a check of the configuration that wants a task": (
        f"{PERIODIC.format('IntervalSeconds(60)')}    def validate_config(self, config): ...\n",
        ["garage:Sync: {module}.Sync.validate_config is asked without a task; put @staticmethod above it"],
    ),
    "a policy that must be awaited": (
        f"{ASYNC_POLICY}{GOOD}    retry_policy = Policy()\n",
        ["{module}.Sync: Policy.schedule_retry is async; write `def schedule_retry(self, attempt, exception)`"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_reported_in_one_line_when_tasks_are_loaded(install: Install, mistake: str) -> None:
    source, said = MISTAKES[mistake]
    module = install(source)
    found = problem()
    assert not [words for words in said if words.format(module=module) not in found], found


@pytest.mark.parametrize(
    "source",
    [
        f"{GOOD}    sizes = [1]\n    retry = 3\n    _dlq_eligable = True\n    def executes(self): ...\n",
        "@dataclasses.dataclass\nclass Sync(BaseTask):\n    retry_polcy: str = ''\n    async def execute(self): ...\n",
        f"class Known(enum.StrEnum):\n    LHCB = 'lhcb'\n{PER_VO.format('Known')}",
        PER_VO.format("str | int"),
        PER_VO.format("'Known'") + "\nKnown = str\n",
        f"{PERIODIC.format('IntervalSeconds(60)')}    enabled = property(lambda self: True)\n",
        f"{GOOD}    def validate_config(self): ...\n    enabled = False\n",
    ],
    ids=["other names", "a field", "an enum", "a union", "an alias", "a property", "no schedule"],
)
def test_what_only_looks_like_a_mistake_is_accepted(install: Install, source: str) -> None:
    install(source)
    assert not [problem for problem in TaskRegistry.installed().problems if "garage" in problem]


@pytest.mark.parametrize("group", ["diracx.tasks", "diracx.task.garage", "diracx.tasks-garage"])
def test_a_group_in_which_nobody_looks_for_tasks_is_reported(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str], group: str
) -> None:
    install_metadata(tmp_path, "garage", f"[{group}]\nSync = garage:Sync\n")
    found = f"the entry point Sync = garage:Sync (garage) stands in the group {group}, which gives no task; write "
    assert [problem for problem in TaskRegistry.installed().problems if problem.startswith(found)]
    assert run(["tasks"]) == 0
    assert f"warning: {found}" in capsys.readouterr().err


@pytest.mark.parametrize("group", ["diracx.lock_object_type", "diracx.lock_types"])
def test_a_group_in_which_nobody_looks_for_lock_types_is_reported(install: Install, tmp_path: Path, group: str) -> None:
    install_metadata(tmp_path, "garage", f"[{group}]\ngarage = garage.lock_types\n")
    assert problem() == (
        f"the entry point garage = garage.lock_types (garage) stands in the group {group}, which registers no lock "
        'type; write [project.entry-points."diracx.lock_object_types"] in pyproject.toml and install garage again'
    )


def test_an_entry_point_that_names_a_module_is_told_to_name_a_class(install: Install, tmp_path: Path) -> None:
    (tmp_path / "garage.py").touch()
    install_metadata(tmp_path, "garage", "[diracx.tasks.garage]\nSync = garage\n")
    assert "is no subclass of" in problem()
    assert "or name a class of tasks in the entry point, module:ClassName" in problem()


@pytest.mark.parametrize(
    "source",
    [
        f"{GOOD}    schedules = []\n    def serializer(self): ...\n    def scheduled(self): ...\n",
        "class Base(BaseTask):\n    async def execute(self): ...\nclass Sync(Base):\n    def executed(self): ...\n",
    ],
    ids=["names near methods", "a name near an inherited execute"],
)
def test_a_name_near_one_that_no_class_has_to_write_is_accepted(install: Install, source: str) -> None:
    install(source)
    assert not [problem for problem in TaskRegistry.installed().problems if "garage" in problem]


def test_a_class_that_is_submitted_is_no_task() -> None:
    with pytest.raises(TaskDefinitionError, match=r"^PeriodicBaseTask is a class; submit a task, PeriodicBaseTask\("):
        TaskRegistry().of(PeriodicBaseTask)  # type: ignore[arg-type]


def test_what_is_no_task_is_told_so() -> None:
    with pytest.raises(TaskDefinitionError, match=r"^5 is no task; give an instance of a subclass of BaseTask$"):
        TaskRegistry().of(5)  # type: ignore[arg-type]


def test_a_class_in_the_place_of_the_name_is_told() -> None:
    with pytest.raises(
        TaskDefinitionError, match=r"is no name of a task; write add\('<category>:<ClassName>', TheClass"
    ):
        TaskRegistry().add(PeriodicBaseTask, "acme:Sync")  # type: ignore[arg-type]


def test_two_tasks_of_one_name_are_reported_with_both_and_the_one_in_use(install: Install) -> None:
    first, second = install(GOOD, "agarage"), install(GOOD, "bgarage")
    found = problem()
    assert f"garage:Sync is given twice, by {first}:Sync (agarage) and {second}:Sync (bgarage)" in found
    assert f"{second}:Sync is used: rename one of them, or uninstall one of the distributions" in found
    assert TaskRegistry.installed().get("garage:Sync").task_class.__module__ == second


def test_a_second_extension_of_diracx_is_reported_and_stops_nothing(install: Install) -> None:
    for name in ("agarage", "bgarage"):
        install(GOOD, name, "[diracx]\nextension = {module}\n")
    problems = [problem for problem in TaskRegistry.installed().problems if "one extension" in problem]
    (found,) = problems
    assert "agarage" in found
    assert "bgarage" in found
    assert "uninstall all but one" in found
    assert TaskRegistry.installed().get("garage:Sync")


@pytest.mark.parametrize(
    ("parameter", "fix"),
    [
        ("owner", "annotate it with Annotated[T, Depends(callable)], or give it a default"),
        ("owner: 'NoSuchName'", "NoSuchName"),
        ("owner: str", "annotate it with Annotated[T, Depends(callable)], or give it a default"),
    ],
)
def test_a_parameter_that_cannot_be_injected_is_reported_by_the_list_of_tasks(
    install: Install, capsys: pytest.CaptureFixture[str], parameter: str, fix: str
) -> None:
    module = install(f"class Sync(BaseTask):\n    async def execute(self, {parameter}): ...\n")
    assert run(["tasks"]) == 0
    told = capsys.readouterr()
    (line,) = [line for line in told.err.splitlines() if "garage:Sync" in line]
    assert "install a package" not in told.err, "one is installed"
    assert line.startswith(f"warning: garage:Sync: {module}.Sync.execute(): parameter 'owner'")
    assert fix in line
    assert "garage:Sync" not in told.out
