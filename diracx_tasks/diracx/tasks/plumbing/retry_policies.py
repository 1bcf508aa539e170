"""Whether and when a failed task is tried again. A policy decides; the worker applies the decision.

In DiracX policies are pydantic models, so authors write fields with defaults and call the class with keywords. Here
they get the same constructor without pydantic, which is no requirement of a task:

* a class with annotated fields becomes a dataclass with keywords when it is first called or subclassed, not earlier:
  until then a decorator of its own may make it another one, frozen for example;
* a class that is a pydantic model, too, is left to pydantic;
* a class that uses pydantic and is no model is refused, since nothing would look at its constraints.
"""

from __future__ import annotations

import functools
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, is_dataclass
from datetime import UTC, datetime, timedelta
from types import UnionType
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    Self,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from diracx.tasks.plumbing.exceptions import TaskDefinitionError, shown

_MAX_DELAY = timedelta(days=365)
# Python 3.14 evaluates annotations when they are asked for; as texts they need no name that is defined later.
_AS_TEXTS: Final[dict[str, Any]] = {"format": 4} if sys.version_info >= (3, 14) else {}
_MADE_BY_PYDANTIC: Final = frozenset({"FieldInfo", "ModelPrivateAttr", "PydanticDescriptorProxy"})


def _where(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _as_a_model(kind: type) -> str:
    return f"write `class {kind.__name__}(RetryPolicyBase, BaseModel)`"


def _is_model(kind: type) -> bool:
    return hasattr(kind, "__pydantic_validator__")


def _add_constructors(mro: Iterable[type]) -> None:
    for kind in reversed(tuple(mro)):
        if _lacks_constructor(kind):
            _add_constructor(kind)


def _lacks_constructor(kind: type) -> bool:
    """Whether fields of the class itself are annotated, and no constructor takes them."""
    if "__dataclass_fields__" in vars(kind) or not issubclass(kind, RetryPolicyBase) or _is_model(kind):
        return False
    if not inspect.get_annotations(kind, **_AS_TEXTS):
        return False
    constructed = next(base for base in kind.__mro__ if "__init__" in vars(base))
    return constructed is object or "__dataclass_fields__" in vars(constructed)


def _add_constructor(kind: Any) -> None:
    frozen = any(base.__dataclass_params__.frozen for base in kind.__mro__ if "__dataclass_params__" in vars(base))
    try:
        hints = get_type_hints(kind, include_extras=True)
    except NameError:  # a name that is defined for type checkers alone: nothing can be checked
        hints = {}
    for name, hint in hints.items():
        if any(_is_constraint(part) for part in getattr(hint, "__metadata__", ())):
            raise TaskDefinitionError(f"{_where(kind)}: the constraint on {name} needs pydantic; {_as_a_model(kind)}")
    made = dataclass(kw_only=True, frozen=frozen)(kind).__init__

    @functools.wraps(made)
    def __init__(self: Any, *args: object, **kwargs: object) -> None:  # noqa: N807 - it becomes the method
        made(self, *args, **kwargs)
        for name, hint in hints.items():
            if not _fits(value := getattr(self, name, None), hint):
                raise TypeError(f"{kind.__name__}: {name} is {shown(repr(value))}, not of the type {hint}")

    kind.__init__ = __init__


def _is_constraint(metadata: object) -> bool:
    return type(metadata).__module__.partition(".")[0] in ("pydantic", "annotated_types")


def _fits(value: object, hint: Any) -> bool:
    """Whether a value has a type, as far as `isinstance` tells; the parts of a container are not looked at."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _fits(value, arguments[0])
    if origin in (Union, UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    kind = origin or hint
    if kind is float:
        return isinstance(value, (float, int))
    try:
        return not isinstance(kind, type) or isinstance(value, kind)
    except TypeError:  # a protocol that cannot be checked
        return True


@dataclass_transform()  # not for keywords only: a dataclass of an author, as those below, may take positions
class RetryPolicyBase(ABC):
    """Decides on the retries of a task. Subclass it for a policy of your own.

    Annotated fields are the keywords of its constructor, which checks plain types; `P(delay_seconds=7)`:

        class P(RetryPolicyBase):
            delay_seconds: int = 5

            def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
                return datetime.now(UTC) + timedelta(seconds=self.delay_seconds) if attempt < 3 else None

    A dataclass, a constructor of your own, and a pydantic model, `class P(RetryPolicyBase, BaseModel)`, work too.

    A task gets an instance, not the class:

        class OnlyTimeouts(RetryPolicyBase):
            def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
                if attempt >= 3 or not isinstance(exception, TimeoutError):
                    return None
                return datetime.now(UTC) + timedelta(minutes=1)

        class SyncOwnersTask(BaseTask):
            retry_policy = OnlyTimeouts()

    Only failures of the task count as attempts. A busy lock, a stopped worker and a lost connection do not.

    Raises:
        TaskDefinitionError: The class uses pydantic, and is no pydantic model.
        TypeError: A keyword is unknown, is missing, or has a value of another type.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _add_constructors(cls.__mro__[1:])
        if _is_model(cls):
            if any(is_dataclass(base) for base in cls.__bases__):
                raise TaskDefinitionError(f"{_where(cls)} is a dataclass and a pydantic model; {_as_a_model(cls)}")
            return
        for name, value in vars(cls).items():
            kind = type(value)
            if name == "model_config" or (
                kind.__module__.startswith("pydantic") and kind.__name__ in _MADE_BY_PYDANTIC
            ):
                raise TaskDefinitionError(f"{_where(cls)}: {name} needs pydantic; {_as_a_model(cls)}")

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        _add_constructors(cls.__mro__)
        return super().__new__(cls)

    @abstractmethod
    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        """Decide on one failure.

        Args:
            attempt: The number of retries already made: 0 at the first failure.
            exception: The exception that `execute()` raised, the same object.

        Returns:
            The earliest time of the next try, aware; None for no further retry.

        Raises:
            StopRetryingError: No further retry, as with None. Any other exception counts as None too, and is logged.
        """


@dataclass(frozen=True)
class NoRetry(RetryPolicyBase):
    """Never retry: the first failure is final."""

    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        """Return None."""
        return None

    def __str__(self) -> str:
        return "no retry"


@dataclass(frozen=True)
class ExponentialBackoff(RetryPolicyBase):
    """Retry exactly `max_retries` times, and double the wait each time.

    `ExponentialBackoff()` waits 10, 20, 40, 80 and 160 seconds.

    Args:
        base_delay_seconds: The wait before the first retry, in seconds; 0 or more.
        max_retries: The number of retries after the first execution; 0 is the same as `NoRetry`.

    Raises:
        TypeError: An argument is no number.
        ValueError: A number is negative, or the last wait exceeds 365 days.
    """

    base_delay_seconds: float = 10
    max_retries: int = 5

    def __post_init__(self) -> None:
        for name in ("base_delay_seconds", "max_retries"):
            if not isinstance(value := getattr(self, name), int | float):
                raise TypeError(f"ExponentialBackoff: {name} is {value!r}; make it a number")
        if not self.base_delay_seconds >= 0 or self.max_retries < 0:
            raise ValueError(f"{self}: base_delay_seconds and max_retries must be 0 or more")
        if self.max_retries and self._delay_seconds(self.max_retries - 1) > _MAX_DELAY.total_seconds():
            raise ValueError(f"{self}: the last retry would wait longer than {_MAX_DELAY.days} days")

    def _delay_seconds(self, attempt: int) -> float:
        # 2**63 times any useful base exceeds the longest delay already; a larger exponent would overflow a float.
        return self.base_delay_seconds * 2.0 ** min(attempt, 63)

    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        """Return now + `base_delay_seconds` x 2^`attempt`, or None after `max_retries` retries."""
        if attempt >= self.max_retries:
            return None
        return datetime.now(UTC) + timedelta(seconds=self._delay_seconds(attempt))

    def __str__(self) -> str:
        return f"exponential backoff, base {self.base_delay_seconds:g} s, {self.max_retries} retries"
