"""The public import paths: other distributions import these names, as they stand here."""

from __future__ import annotations

from importlib import import_module

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
    "diracx.tasks.depends": "CallbackSpawner NoTransaction",
}

# The names that packages re-export for the rest of the code, and the helpers for tests of extensions.
OTHER_NAMES = {
    "diracx.tasks.plumbing.registry": "RegisteredTask TaskRegistry",
    "diracx.tasks.plumbing.jetstream.connection": "Connection",
    "diracx.tasks.plumbing.worker": "Worker WorkerSettings",
    "diracx.tasks.plumbing.scheduler": "Scheduler SchedulerSettings",
    "diracx.tasks.testing": (
        "Mesh Delivered LeakError run_task wait_until sqlite_database InMemoryLockStore "
        "Succeeded Retry LockBusy Dead Discarded Interrupted"
    ),
}

# diracx-routers 0.7 imports these from the package itself, which serves them on demand.
SERVED_ON_DEMAND = (
    "AvailableSecurityProperties",
    "CallbackSpawner",
    "Config",
    "NoTransaction",
    "auto_inject",
    "auto_inject_depends",
)


def _pairs(table: dict[str, str]) -> list[tuple[str, str]]:
    return [(module, name) for module, names in table.items() for name in names.split()]


@pytest.mark.parametrize(("module", "name"), _pairs(PUBLIC_NAMES | OTHER_NAMES))
def test_a_public_name_can_be_imported_from_its_public_path(module: str, name: str) -> None:
    assert hasattr(import_module(module), name)


@pytest.mark.parametrize("name", SERVED_ON_DEMAND)
def test_the_package_serves_the_names_that_diracx_routers_imports(name: str) -> None:
    plumbing, depends = import_module("diracx.tasks.plumbing"), import_module("diracx.tasks.plumbing.depends")
    assert getattr(plumbing, name) == getattr(depends, name)


def test_the_package_serves_no_other_name() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Worker'"):
        import_module("diracx.tasks.plumbing").Worker  # noqa: B018


@pytest.mark.parametrize("module", ["locks", "registry", "schedules", "depends"])
def test_every_name_in_all_exists(module: str) -> None:
    package = import_module(f"diracx.tasks.plumbing.{module}")
    assert not [name for name in package.__all__ if not hasattr(package, name)]


def test_the_older_name_of_submit_many_stays() -> None:
    assert JetStreamBroker.schedule_many is JetStreamBroker.submit_many
