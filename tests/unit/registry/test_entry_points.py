"""Tasks of installed distributions; an extension wins over the distribution that it extends."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from diracx.tasks.cli.installed import packages_with_tasks
from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.lock_registry import LockedObjectType
from diracx.tasks.plumbing.registry import TaskRegistry
from support.distributions import install_metadata

TASK = """
import dataclasses
from diracx.tasks.plumbing.base_task import BaseTask

@dataclasses.dataclass
class Sync(BaseTask):
    owner: str
    async def execute(self):
        return self.owner
"""


class Site:
    """A folder on the path in which distributions are installed. Every test has names of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unique = uuid4().hex[:8]
        self.category = f"cat{self.unique}"
        self.modules: list[str] = []

    def name(self, distribution: str) -> str:
        return f"{distribution}{self.unique}"

    def install(
        self, distribution: str, source: str = TASK, *, entry_points: str | None = None, requires: tuple[str, ...] = ()
    ) -> str:
        """Install a distribution of one module; return the module's name. `{module}` and `{category}` are filled in."""
        module = self.name(distribution).replace("-", "_").replace(".", "_").lower()
        self.modules.append(module)
        (self.path / f"{module}.py").write_text(source.replace("{site}", self.unique))
        text = entry_points or "[diracx.tasks.{category}]\nSync = {module}:Sync\n"
        points = text.format(module=module, category=self.category)
        install_metadata(self.path, self.name(distribution), points, requires=requires, folder_name=module)
        return module

    def load(self) -> TaskRegistry:
        return TaskRegistry.installed()

    def task(self, registry: TaskRegistry) -> type[BaseTask]:
        return registry.get(f"{self.category}:Sync").task_class

    def problems(self, registry: TaskRegistry) -> list[str]:
        return [problem for problem in registry.problems if self.unique in problem]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.syspath_prepend(tmp_path)
    site = Site(tmp_path)
    yield site
    for module in site.modules:
        sys.modules.pop(module, None)


def test_a_task_is_registered_by_category_and_class_with_its_distribution(site: Site) -> None:
    site.install("lollygag")
    registry = site.load()
    registered = registry.get(f"{site.category}:Sync")
    assert registered.name == f"{site.category}:Sync"
    assert registered.distribution == site.name("lollygag")
    assert registered.task_class.__name__ == "Sync"
    assert registered in list(registry)
    assert registry.of(registered.task_class("alice")) is registered  # type: ignore[call-arg]
    assert not site.problems(registry)


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import no_such_module_of_ours", "ModuleNotFoundError: No module named 'no_such_module_of_ours'"),
        ("def broken(:", "SyntaxError: "),
        ("raise RuntimeError('while importing')", "RuntimeError: while importing"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("", "AttributeError: "),
    ],
)
def test_a_broken_entry_point_is_named_and_stops_no_other(site: Site, source: str, cause: str) -> None:
    module = site.install("broken", source, entry_points="[diracx.tasks.{category}]\nBroken = {module}:Broken\n")
    site.install("lollygag")
    registry = site.load()
    assert site.task(registry).__name__ == "Sync"
    (problem,) = site.problems(registry)
    assert problem.startswith(
        f"{site.category}:Broken ({site.name('broken')}) cannot be loaded from {module}:Broken: {cause}"
    )
    with pytest.raises(TaskDefinitionError) as caught:
        registry.get(f"{site.category}:Broken")
    assert str(caught.value) == problem


@pytest.mark.parametrize("value", ["my-mod:T", "some module", ":T", "a:b:c"])
def test_a_malformed_entry_point_is_named_and_stops_no_other(site: Site, value: str) -> None:
    site.install("broken", entry_points=f"[diracx.tasks.{{category}}]\nBroken = {value}\n")
    site.install("nolocks", entry_points=f"[diracx.lock_object_types]\nbroken = {value}\n")
    site.install("lollygag")
    registry = site.load()
    assert site.task(registry).__name__ == "Sync"
    of_locks, of_task = site.problems(registry)
    cause = f"cannot be loaded from {value}: it is neither `module` nor `module:name`"
    assert of_locks == (
        f"diracx.lock_object_types broken ({site.name('nolocks')}) {cause}; "
        f"correct the entry point in pyproject.toml and install {site.name('nolocks')} again"
    )
    assert of_task.startswith(f"{site.category}:Broken ({site.name('broken')}) {cause}; ")
    with pytest.raises(TaskDefinitionError) as caught:
        registry.get(f"{site.category}:Broken")
    assert str(caught.value) == of_task
    assert {"lollygag" + site.unique} <= packages_with_tasks()


def test_a_malformed_entry_point_of_a_replaced_task_is_named_and_the_replaced_class_does_not_run(site: Site) -> None:
    site.install("base")
    site.install("broken", entry_points="[diracx.tasks.{category}]\nSync = my-mod:T\n", requires=(site.name("base"),))
    registry = site.load()
    (problem,) = site.problems(registry)
    assert problem.startswith(f"{site.category}:Sync ({site.name('broken')}) cannot be loaded from my-mod:T: ")
    with pytest.raises(TaskDefinitionError):
        site.task(registry)


@pytest.mark.parametrize("tasks", ["Other = {module}:Sync", "Sync = {module}:Sync"])
def test_a_malformed_extension_is_named_and_stops_nothing(site: Site, tasks: str) -> None:
    """Also where two distributions give one name, and the list of extensions decides which of them wins."""
    site.install("lollygag")
    points = f"[diracx]\nextension = my-ext\n[diracx.tasks.{{category}}]\n{tasks}\n"
    site.install("broken", entry_points=points, requires=(site.name("lollygag"),))
    registry = site.load()
    assert site.task(registry).__name__ == "Sync"
    (problem,) = site.problems(registry)
    assert problem == (
        f"the DiracX extension 'my-ext' ({site.name('broken')}) is not the name of a package; "
        f"correct the entry point in pyproject.toml and install {site.name('broken')} again"
    )


def test_a_class_that_cannot_work_is_named_and_stops_no_other(site: Site) -> None:
    site.install("wrong", TASK.replace("owner: str", "owner: object()"), entry_points=None)
    site.install("lollygag", entry_points="[diracx.tasks.{category}]\nOther = {module}:Sync\n")
    registry = site.load()
    assert registry.get(f"{site.category}:Other").task_class.__name__ == "Sync"
    (problem,) = site.problems(registry)
    assert problem.startswith(f"{site.category}:Sync: ")
    assert "the field owner cannot be carried" in problem


def test_the_modules_of_lock_types_are_imported(site: Site) -> None:
    site.install(
        "locks",
        "from diracx.tasks.plumbing.lock_registry import register_locked_object_type\n"
        "register_locked_object_type('lollygag-{site}')\n",
        entry_points="[diracx.lock_object_types]\nlollygag = {module}\n",
    )
    site.install("nolocks", "1 / 0", entry_points="[diracx.lock_object_types]\nbroken = {module}\n")
    registry = site.load()
    assert LockedObjectType(f"lollygag-{site.unique}") == f"lollygag-{site.unique}"
    (problem,) = site.problems(registry)
    assert problem.startswith(f"diracx.lock_object_types broken ({site.name('nolocks')}) cannot be loaded")
    assert "ZeroDivisionError" in problem


@pytest.mark.parametrize(("base", "extension"), [("aaa", "zzz"), ("zzz", "aaa")])
def test_an_extension_wins_over_the_distribution_that_it_requires(site: Site, base: str, extension: str) -> None:
    site.install(base)
    module = site.install(extension, requires=("msgspec>=0.1", f"{site.name(base)}[extra]>=1 ; python_version > '3'"))
    registry = site.load()
    assert site.task(registry).__module__ == module
    assert registry.get(f"{site.category}:Sync").distribution == site.name(extension)


def test_the_end_of_a_chain_of_extensions_wins(site: Site) -> None:
    site.install("mmm")
    site.install("zzz", requires=(site.name("mmm"),))
    module = site.install("aaa", requires=(site.name("zzz"),))
    assert site.task(site.load()).__module__ == module


def test_a_requirement_may_spell_the_name_otherwise(site: Site) -> None:
    site.install("Zzz.Base")
    module = site.install("aaa", requires=(site.name("zzz_base"),))
    assert site.task(site.load()).__module__ == module


def test_a_distribution_that_offers_its_extension_as_an_extra_does_not_extend_it(site: Site) -> None:
    site.install("zzz", requires=(f"{site.name('aaa')} ; extra == 'all'",))
    module = site.install("aaa", requires=(site.name("zzz"),))
    assert site.task(site.load()).__module__ == module


def test_distributions_that_require_each_other_do_not_hang(site: Site) -> None:
    site.install("aaa", requires=(site.name("zzz"),))
    site.install("zzz", requires=(site.name("aaa"),))
    registry = site.load()
    assert site.task(registry).__name__ == "Sync"
    assert len(site.problems(registry)) == 1


def test_an_extension_may_require_the_extended_distribution_through_one_without_tasks(site: Site) -> None:
    site.install("zzz")
    site.install("mmm", entry_points="[unrelated]\n", requires=(site.name("zzz"),))
    module = site.install("aaa", requires=(site.name("mmm"),))
    registry = site.load()
    assert site.task(registry).__module__ == module
    assert not site.problems(registry)


def test_an_extension_of_two_distributions_wins_over_both_without_a_problem(site: Site) -> None:
    site.install("yyy")
    site.install("zzz")
    module = site.install("aaa", requires=(site.name("yyy"), site.name("zzz")))
    registry = site.load()
    assert site.task(registry).__module__ == module
    assert not site.problems(registry)


@pytest.mark.parametrize("requires_the_extension", [False, True])
def test_the_extension_of_diracx_wins_over_a_distribution_that_is_no_extension(
    site: Site, requires_the_extension: bool
) -> None:
    site.install("zzz", requires=(site.name("aaa"),) if requires_the_extension else ())
    module = site.install(
        "aaa", entry_points="[diracx]\nextension = {module}\n[diracx.tasks.{category}]\nSync = {module}:Sync\n"
    )
    registry = site.load()
    assert site.task(registry).__module__ == module
    assert not site.problems(registry)


def test_diracx_itself_is_no_extension(site: Site) -> None:
    """Its own distributions list `extension = diracx`, and an extension wins over them."""
    own = "[diracx]\nextension = diracx\n[diracx.tasks.{category}]\nSync = {module}:Sync\n"
    site.install("zzz", entry_points=own)
    module = site.install("aaa", entry_points=own.replace("extension = diracx", "extension = {module}"))
    registry = site.load()
    assert site.task(registry).__module__ == module
    assert not site.problems(registry)


def test_two_that_do_not_extend_each_other_are_a_problem_that_names_both(site: Site) -> None:
    modules = [site.install(name) for name in ("aaa", "zzz")]
    (problem,) = site.problems(site.load())
    assert problem.startswith(f"{site.category}:Sync is given twice")
    assert all(module in problem for module in modules)


def test_a_class_that_was_replaced_is_still_submitted_under_the_shared_name(site: Site) -> None:
    base = site.install("base")
    site.install(
        "extension",
        f"import dataclasses\nfrom {base} import Sync as Base\n"
        "@dataclasses.dataclass\nclass Sync(Base):\n    quota: int = 0\n",
        requires=(site.name("base"),),
    )
    registry = site.load()
    replaced = site.task(registry).__mro__[1]
    registered = registry.of(replaced("alice"))
    assert registered.name == f"{site.category}:Sync"
    assert registered.task_class is replaced
    body = registered.codec.encode(replaced("alice"))  # type: ignore[call-arg]
    assert body == b'{"owner":"alice"}'
    executed = registry.get(registered.name).codec.decode(body)
    assert (executed.owner, executed.quota) == ("alice", 0)  # type: ignore[attr-defined]


TWO_NAMES = "[diracx.tasks.{category}]\nSync = {module}:Sync\nEarlier = {module}:Sync\n"
TWO_CATEGORIES = "".join(f"[diracx.tasks.{{category}}{old}]\nSync = {{module}}:Sync\n" for old in ("", ".old"))
ALIAS = "[diracx.tasks.{category}]\nSync = {module}:Sync\nEarlier = {module}:Alias\n"


@pytest.mark.parametrize(
    ("points", "other"), [(TWO_NAMES, ":Earlier"), (TWO_CATEGORIES, ".old:Sync"), (ALIAS, ":Earlier")]
)
def test_a_class_of_two_entry_points_is_two_tasks_and_both_are_served(site: Site, points: str, other: str) -> None:
    site.install("lollygag", f"{TASK}\nAlias = Sync\n", entry_points=points)
    registry = site.load()
    task = site.task(registry)("alice")  # type: ignore[call-arg]
    assert not site.problems(registry)
    for name in (f"{site.category}:Sync", f"{site.category}{other}"):
        assert registry.get(name).task_class is type(task)
        assert registry.of(task, name).name == name
    assert registry.of(task).name == f"{site.category}:Sync"


def test_a_subclass_under_another_name_is_a_task_of_its_own(site: Site) -> None:
    points = "[diracx.tasks.{category}]\nSync = {module}:Sync\nEarlier = {module}:Earlier\n"
    site.install("lollygag", f"{TASK}\nclass Earlier(Sync): pass\n", entry_points=points)
    registry = site.load()
    earlier = registry.get(f"{site.category}:Earlier").task_class
    assert registry.of(earlier("alice")).name == f"{site.category}:Earlier"  # type: ignore[call-arg]
    assert registry.of(site.task(registry)("alice")).name == f"{site.category}:Sync"  # type: ignore[call-arg]


def test_a_periodic_class_of_two_names_has_two_schedules_and_a_line_says_so(site: Site) -> None:
    source = (
        "from diracx.tasks.plumbing.base_task import PeriodicBaseTask\n"
        "from diracx.tasks.plumbing.schedules import IntervalSeconds\n"
        "class Sync(PeriodicBaseTask):\n    default_schedule = IntervalSeconds(60)\n    async def execute(self): ...\n"
    )
    module = site.install("lollygag", source, entry_points=TWO_NAMES)
    registry = site.load()
    (problem,) = site.problems(registry)
    assert problem == (
        f"{site.category}:Earlier and {site.category}:Sync are one class, {module}.Sync, and each name has a schedule: "
        "remove all but one of the entry points, or write `enabled: false` for the others in the configuration"
    )
    assert registry.get(f"{site.category}:Earlier").task_class is site.task(registry)


@pytest.mark.parametrize("name", ["Two words", "a:b", "*", ">", "Größe", "+A", "$A", "1st", "A" * 300])
def test_an_odd_name_is_refused_in_one_line_and_stops_no_other(site: Site, name: str) -> None:
    site.install("odd", entry_points=f"[diracx.tasks.{{category}}]\n{name} = {{module}}:Sync\n")
    site.install("lollygag")
    registry = site.load()
    assert site.task(registry).__name__ == "Sync"
    (problem,) = site.problems(registry)
    assert f"({site.name('odd')}) is no name of a task: " in problem
    assert "\n" not in problem
    assert len(problem) < 400
    with pytest.raises(TaskDefinitionError, match="is no name of a task"):
        registry.get(f"{site.category}:{name}")


@pytest.mark.parametrize("category", ["{category} b", "{category}:b", "*{category}", "é{category}"])
def test_an_odd_category_is_refused_in_one_line_and_stops_no_other(site: Site, category: str) -> None:
    site.install("odd", entry_points=f"[diracx.tasks.{category}]\nSync = {{module}}:Sync\n")
    site.install("lollygag")
    registry = site.load()
    assert site.task(registry).__name__ == "Sync"
    (problem,) = site.problems(registry)
    assert "is no name of a task: write <category>:<ClassName>" in problem


def test_a_group_without_a_category_is_reported_and_stops_no_other(site: Site) -> None:
    module = site.install("odd", entry_points="[diracx.tasks]\nSync = {module}:Sync\n")
    site.install("lollygag")
    registry = site.load()
    assert site.task(registry).__name__ == "Sync"
    (problem,) = site.problems(registry)
    assert problem == (
        f"the entry point Sync = {module}:Sync ({site.name('odd')}) stands in the group diracx.tasks, which gives no "
        f'task; write [project.entry-points."diracx.tasks.<category>"] in pyproject.toml and install '
        f"{site.name('odd')} again"
    )


def test_an_extension_may_replace_one_of_two_names_and_the_class_keeps_the_other(site: Site) -> None:
    base = site.install("base", entry_points=TWO_NAMES)
    site.install(
        "extension", f"from {base} import Sync as Base\nclass Sync(Base): pass\n", requires=(site.name("base"),)
    )
    registry = site.load()
    replaced = registry.get(f"{site.category}:Earlier").task_class
    assert site.task(registry).__mro__[1] is replaced
    task = replaced("alice")  # type: ignore[call-arg]
    assert registry.of(task).name == f"{site.category}:Sync", "the extension runs it"
    assert registry.of(task, f"{site.category}:Earlier").task_class is replaced
    assert registry.of(site.task(registry)("bob")).name == f"{site.category}:Sync"  # type: ignore[call-arg]
    assert not site.problems(registry)
