"""JSON from which a task is read as it was written, or an error that says what would change.

For most values of a dataclass a look at their types shows it (see `exactness`). Else the task is built from its JSON
and compared (see `difference`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import inspect as shapes

from diracx.tasks.plumbing.wire.difference import RUNS_AGAIN, difference, non_finite, unwritable
from diracx.tasks.plumbing.wire.exactness import compile_test
from diracx.tasks.plumbing.wire.failure import message_of
from diracx.tasks.plumbing.wire.pydantic_json import MismatchError

T = TypeVar("T")


class ExactJson(Generic[T]):
    """Writes tasks of one class, if they are read as they were written.

    Args:
        write: Makes the JSON of a task.
        decode: Makes the task of the JSON.
        shape: The class as msgspec sees it; None if only `decode` can tell whether a task arrives exactly.
    """

    def __init__(
        self, write: Callable[[Any], bytes], decode: Callable[[bytes], T], shape: shapes.Type | None = None
    ) -> None:
        self.decode = decode
        self._write = write
        self._shape = shape
        self._is_exact: Callable[[T], bool] = _nobody_knows if shape is None else self._compile_and_test

    def encode(self, task: T) -> bytes:
        """Write a task.

        Raises:
            ValueError: It cannot be written, or would be read as another one.
            RecursionError: It is nested too deeply.
        """
        try:
            body = self._write(task)
        except Exception as error:  # a tzinfo or a serializer of an author may raise anything
            raise ValueError(_unwritable(task, self._write, error)) from error
        try:
            if self._is_exact(task):
                return body
        except Exception:  # noqa: S110 - it decides nothing, see `exactness`
            pass
        self._refuse_change(task, body)
        return body

    def _compile_and_test(self, task: T) -> bool:
        """The test of the first task. Most processes that load a class never send a task of it."""
        assert self._shape is not None
        self._is_exact = compile_test(self._shape)
        return self._is_exact(task)

    def _refuse_change(self, task: T, body: bytes) -> None:
        try:
            msgspec.json.decode(body)  # pydantic also writes NaN, which no other reader takes
            read = self.decode(body)
        except (KeyboardInterrupt, RecursionError):
            raise
        except BaseException as error:  # validators and `__post_init__` may raise anything
            raise ValueError(_unreadable(task, self._write, error)) from error
        if (changed := difference(task, read)) is not None:
            raise ValueError(f"the value at {changed}")


def _unwritable(task: object, write: Callable[[Any], object], error: Exception) -> str:
    if isinstance(error, RecursionError):
        where = unwritable(task, write, depth=1)
        return f"the value at {where} is nested too deeply or contains itself (recursion); make it flat"
    text = f"the value at {unwritable(task, write)} cannot be written as JSON: {one_line(error)}"
    if isinstance(error, UnicodeEncodeError):
        return f"{text}; give it without lone surrogates, or annotate the field with bytes"
    return f"{text}; convert it, e.g. to a str"


def _unreadable(task: object, write: Callable[[Any], bytes], error: BaseException) -> str:
    text, cause = one_line(error), error.__cause__
    if isinstance(error, TypeError) and text.startswith("unhashable type"):  # of an element that is no list yet
        where = unwritable(task, lambda part: msgspec.json.decode(write(part), type=type(part)))
        return f"the value at {where} has elements that would arrive as lists; annotate them, e.g. set[tuple[int, str]]"
    if not isinstance(error, msgspec.ValidationError) or cause is not None:
        text = f"it cannot be read from its own JSON: {text}"
    if not isinstance(error, msgspec.MsgspecError | MismatchError) or not isinstance(cause, MismatchError | None):
        text += f"; {RUNS_AGAIN}"
    if (found := non_finite(task)) is not None:
        return f"the value at {found} ({text})"
    if type(error) is msgspec.DecodeError:  # a `msgspec.Raw` may hold anything
        return f"the value at {unwritable(task, lambda part: msgspec.json.decode(write(part)))} is no JSON: {text}"
    return text


def _nobody_knows(task: object) -> bool:
    return False


def one_line(error: BaseException) -> str:
    """The text of an error; one of pydantic within a dataclass has one path, not two."""
    text = " ".join(message_of(error).split())
    if isinstance(error, MismatchError):
        return f"{text} - at `${error.path}`"
    inner = error.__cause__
    if isinstance(error, msgspec.ValidationError) and isinstance(inner, MismatchError):
        return f"{text.removesuffix('`')}{inner.path}`"
    return text
