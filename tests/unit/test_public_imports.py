"""The public import paths: other distributions import these names, as they stand here."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

from diracx.tasks.plumbing.jetstream import JetStreamBroker

# The list of the design, section 1.
PUBLIC_NAMES = {
    "diracx.tasks.plumbing.base_task": "BaseTask PeriodicBaseTask PeriodicVoAwareBaseTask",
    "diracx.tasks.plumbing.enums": "Priority Size",
    "diracx.tasks.plumbing.retry_policies": "RetryPolicyBase NoRetry ExponentialBackoff",
    "diracx.tasks.plumbing.schedules": "TaskScheduleBase IntervalSeconds CronSchedule RRuleSchedule",
    "diracx.tasks.plumbing.locks": (
        "BaseLock BaseLimiter MutexLock ExclusiveRWLock SharedRWLock RateLimiter ConcurrencyLimiter"
    ),
    "diracx.tasks.plumbing.lock_registry": "LockedObjectType register_locked_object_type TASK JOB TRANSFORMATION",
    "diracx.tasks.plumbing.depends": "Depends DBDepends NoTransaction CallbackSpawner",
    "diracx.tasks.plumbing.exceptions": (
        "TaskRetryRequestedError UnretryableError StopRetryingError TooManyRetriesError UnableToAcquireLockError "
        "SendTaskError ResultIsMissingError"
    ),
    "diracx.tasks.plumbing.jetstream": "JetStreamBroker",
    "diracx.tasks.depends": "CallbackSpawner ChildOutcome GroupOutcomes NoTransaction",
}

# The names that packages re-export for the rest of the code, and the helpers for tests of extensions.
OTHER_NAMES = {
    "diracx.tasks.plumbing.registry": "RegisteredTask TaskRegistry",
    "diracx.tasks.plumbing.jetstream.connection": "Connection",
    "diracx.tasks.plumbing.worker": "Worker WorkerSettings",
    "diracx.tasks.plumbing.scheduler": "Scheduler SchedulerSettings",
    "diracx.tasks.testing": (
        "Mesh Delivered Submitted LeakError run_task wait_until sqlite_database InMemoryLockStore EmbeddedServer "
        "EmbeddedServerError Succeeded Retry LockBusy Held Dead Discarded Cancelled Interrupted WrongQueue"
    ),
}

# The public names of `diracx.tasks.plumbing` in DiracX 0.7.
_NAMES = """
AvailableSecurityProperties BaseLimiter BaseLock BaseTask CallbackSpawner ConcurrencyLimiter Config CronSchedule
ExclusiveRWLock ExponentialBackoff IntervalSeconds LockedObjectType MutexLock NoRetry NoTransaction PeriodicBaseTask
PeriodicTaskConfig PeriodicVoAwareBaseTask Priority RRuleSchedule RateLimiter ResultIsMissingError RetryPolicyBase
SendTaskError SharedRWLock Size StopRetryingError TaskOverride TaskRetryRequestedError TaskScheduleBase TasksConfig
TooManyRetriesError UnableToAcquireLockError UnretryableError auto_inject auto_inject_depends find_missing_overrides
fire_callback load_task_registry register_locked_object_type setup_dependency_overrides spawn_with_callback
task_wrapper validate_registry wrap_task
"""
NAMES_OF_DIRACX = _NAMES.split()
# The names that stand beside them in the package.
NAMES_BESIDE = ["ChildOutcome", "GroupOutcomes"]
ALL_NAMES = sorted([*NAMES_OF_DIRACX, *NAMES_BESIDE])

# The paths at which DiracX 0.7 defines them, as far as the design above does not list them.
PATHS_OF_DIRACX = {
    "diracx.tasks.plumbing.callbacks": "ChildOutcome GroupOutcomes fire_callback spawn_with_callback",
    "diracx.tasks.plumbing.depends": "AvailableSecurityProperties Config auto_inject auto_inject_depends",
    "diracx.tasks.plumbing.factory": (
        "find_missing_overrides load_task_registry setup_dependency_overrides task_wrapper wrap_task"
    ),
    "diracx.tasks.plumbing.lock_registry": "validate_registry",
}


def _pairs(table: dict[str, str]) -> list[tuple[str, str]]:
    return [(module, name) for module, names in table.items() for name in names.split()]


@pytest.mark.parametrize(("module", "name"), _pairs(PUBLIC_NAMES | OTHER_NAMES))
def test_a_public_name_can_be_imported_from_its_public_path(module: str, name: str) -> None:
    assert hasattr(import_module(module), name)


def test_the_package_serves_the_names_of_diracx() -> None:
    plumbing = import_module("diracx.tasks.plumbing")
    assert plumbing.__all__ == ALL_NAMES
    assert set(ALL_NAMES) <= set(dir(plumbing))


@pytest.mark.parametrize(("module", "name"), _pairs(PUBLIC_NAMES | PATHS_OF_DIRACX))
def test_a_name_of_the_package_is_that_of_its_module(module: str, name: str) -> None:
    if name in ALL_NAMES:
        assert getattr(import_module("diracx.tasks.plumbing"), name) == getattr(import_module(module), name)


def test_every_name_of_the_package_can_be_imported() -> None:
    plumbing = import_module("diracx.tasks.plumbing")
    assert all(getattr(plumbing, name) for name in ALL_NAMES)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("diracx.tasks.plumbing", ALL_NAMES),
        ("diracx.tasks.plumbing.schedules", PUBLIC_NAMES["diracx.tasks.plumbing.schedules"].split()),
        ("diracx.tasks.testing", OTHER_NAMES["diracx.tasks.testing"].split()),
    ],
)
def test_type_checkers_see_the_same_names(module: str, names: list[str]) -> None:
    package = import_module(module)
    stub = Path(str(package.__file__)).with_suffix(".pyi")
    body = ast.parse(stub.read_text("utf-8")).body
    imported = {alias.asname for node in body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assigned = {ast.unparse(node.targets[0]) for node in body if isinstance(node, ast.Assign)}
    assert (imported | assigned) - {None} == set(names)
    assert set(package.__all__) == set(names)
    assert set(names) <= set(dir(package))


def test_code_that_fires_a_callback_hears_that_nobody_has_to() -> None:
    fire_callback = import_module("diracx.tasks.plumbing").fire_callback
    with pytest.raises(NotImplementedError, match=r"^fire_callback\(\): .* runs by itself, after its last child"):
        fire_callback(None, "a-group", broker=None)


@pytest.mark.parametrize("package", ["plumbing", "plumbing.schedules", "testing"])
def test_the_package_serves_no_other_name(package: str) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Worker'"):
        import_module(f"diracx.tasks.{package}").Worker  # noqa: B018


@pytest.mark.parametrize("module", ["locks", "registry", "schedules", "depends"])
def test_every_name_in_all_exists(module: str) -> None:
    package = import_module(f"diracx.tasks.plumbing.{module}")
    assert not [name for name in package.__all__ if not hasattr(package, name)]


def test_the_older_name_of_submit_many_stays() -> None:
    assert JetStreamBroker.schedule_many is JetStreamBroker.submit_many
