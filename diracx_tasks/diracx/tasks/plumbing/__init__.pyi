"""What type checkers see of the names that `__init__.py` serves on demand. A test compares both."""

from diracx.core.config import Config as Config
from diracx.core.properties import SecurityProperty

from diracx.tasks.plumbing.base_task import BaseTask as BaseTask
from diracx.tasks.plumbing.base_task import PeriodicBaseTask as PeriodicBaseTask
from diracx.tasks.plumbing.base_task import PeriodicVoAwareBaseTask as PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.callbacks import ChildOutcome as ChildOutcome
from diracx.tasks.plumbing.callbacks import GroupOutcomes as GroupOutcomes
from diracx.tasks.plumbing.callbacks import fire_callback as fire_callback
from diracx.tasks.plumbing.callbacks import spawn_with_callback as spawn_with_callback
from diracx.tasks.plumbing.depends import CallbackSpawner as CallbackSpawner
from diracx.tasks.plumbing.depends import NoTransaction as NoTransaction
from diracx.tasks.plumbing.depends import auto_inject as auto_inject
from diracx.tasks.plumbing.depends import auto_inject_depends as auto_inject_depends
from diracx.tasks.plumbing.enums import Priority as Priority
from diracx.tasks.plumbing.enums import Size as Size
from diracx.tasks.plumbing.exceptions import ResultIsMissingError as ResultIsMissingError
from diracx.tasks.plumbing.exceptions import SendTaskError as SendTaskError
from diracx.tasks.plumbing.exceptions import StopRetryingError as StopRetryingError
from diracx.tasks.plumbing.exceptions import TaskRetryRequestedError as TaskRetryRequestedError
from diracx.tasks.plumbing.exceptions import TooManyRetriesError as TooManyRetriesError
from diracx.tasks.plumbing.exceptions import UnableToAcquireLockError as UnableToAcquireLockError
from diracx.tasks.plumbing.exceptions import UnretryableError as UnretryableError
from diracx.tasks.plumbing.factory import find_missing_overrides as find_missing_overrides
from diracx.tasks.plumbing.factory import load_task_registry as load_task_registry
from diracx.tasks.plumbing.factory import setup_dependency_overrides as setup_dependency_overrides
from diracx.tasks.plumbing.factory import task_wrapper as task_wrapper
from diracx.tasks.plumbing.factory import wrap_task as wrap_task
from diracx.tasks.plumbing.lock_registry import LockedObjectType as LockedObjectType
from diracx.tasks.plumbing.lock_registry import register_locked_object_type as register_locked_object_type
from diracx.tasks.plumbing.lock_registry import validate_registry as validate_registry
from diracx.tasks.plumbing.locks import BaseLimiter as BaseLimiter
from diracx.tasks.plumbing.locks import BaseLock as BaseLock
from diracx.tasks.plumbing.locks import ConcurrencyLimiter as ConcurrencyLimiter
from diracx.tasks.plumbing.locks import ExclusiveRWLock as ExclusiveRWLock
from diracx.tasks.plumbing.locks import MutexLock as MutexLock
from diracx.tasks.plumbing.locks import RateLimiter as RateLimiter
from diracx.tasks.plumbing.locks import SharedRWLock as SharedRWLock
from diracx.tasks.plumbing.overrides.diracx_layout import PeriodicTaskConfig as PeriodicTaskConfig
from diracx.tasks.plumbing.overrides.diracx_layout import TaskOverride as TaskOverride
from diracx.tasks.plumbing.overrides.diracx_layout import TasksConfig as TasksConfig
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff as ExponentialBackoff
from diracx.tasks.plumbing.retry_policies import NoRetry as NoRetry
from diracx.tasks.plumbing.retry_policies import RetryPolicyBase as RetryPolicyBase
from diracx.tasks.plumbing.schedules import CronSchedule as CronSchedule
from diracx.tasks.plumbing.schedules import IntervalSeconds as IntervalSeconds
from diracx.tasks.plumbing.schedules import RRuleSchedule as RRuleSchedule
from diracx.tasks.plumbing.schedules import TaskScheduleBase as TaskScheduleBase

AvailableSecurityProperties = set[SecurityProperty]
