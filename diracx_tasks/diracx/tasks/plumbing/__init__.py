"""The machinery of DiracX tasks: a package for each question, with imports that point one way.

DiracX offers the public names of its tasks here, so they are all here too. Each comes from its module when somebody
asks for it: `import diracx.tasks.plumbing` loads none of them. `__init__.pyi` tells them to type checkers.

`Config` and `AvailableSecurityProperties` need diracx-core. Without it a star import leaves them out, and asking for
one raises an ImportError that names the extra. Every other name works with this distribution alone.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

_NAMES: Final = {
    "base_task": "BaseTask PeriodicBaseTask PeriodicVoAwareBaseTask",
    "callbacks": "ChildOutcome GroupOutcomes fire_callback spawn_with_callback",
    "depends": ("AvailableSecurityProperties CallbackSpawner Config NoTransaction auto_inject auto_inject_depends"),
    "enums": "Priority Size",
    "exceptions": (
        "ResultIsMissingError SendTaskError StopRetryingError TaskRetryRequestedError TooManyRetriesError "
        "UnableToAcquireLockError UnretryableError"
    ),
    "factory": "find_missing_overrides load_task_registry setup_dependency_overrides task_wrapper wrap_task",
    "lock_registry": "LockedObjectType register_locked_object_type validate_registry",
    "locks": "BaseLimiter BaseLock ConcurrencyLimiter ExclusiveRWLock MutexLock RateLimiter SharedRWLock",
    "overrides.diracx_layout": "PeriodicTaskConfig TaskOverride TasksConfig",
    "retry_policies": "ExponentialBackoff NoRetry RetryPolicyBase",
    "schedules": "CronSchedule IntervalSeconds RRuleSchedule TaskScheduleBase",
}
"""The public names by their module."""

_MODULE_OF: Final = {name: module for module, names in _NAMES.items() for name in names.split()}
_OF_DIRACX_CORE: Final = frozenset({"AvailableSecurityProperties", "Config"})

__all__ = [name for name in sorted(_MODULE_OF) if name not in _OF_DIRACX_CORE or find_spec("diracx.core")]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
