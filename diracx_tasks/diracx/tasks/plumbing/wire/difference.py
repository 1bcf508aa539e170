"""Does a value arrive as it was sent, and if not, where? Each answer is one line with the path and the mend.

* Values are compared with their types: `1`, `1.0` and `True` differ, and so do a list and a tuple, or a class and its
  base.
* Three things count as unchanged, since type checkers allow them and the values are equal: an `int` that arrives as a
  `float`, a member of a `StrEnum` or `IntEnum` that arrives as its `str` or `int`, and a datetime whose time zone
  arrives as the offset that it has at that time.
* Objects are compared by their fields, so their own `==` is not asked.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final

import msgspec

from diracx.tasks.plumbing.exceptions import shown
from diracx.tasks.plumbing.wire.pydantic_json import is_pydantic

_MISSING: Final = object()
_PLAIN: Final = frozenset({str, int, bool, type(None), bytes})
_WITHOUT_PARTS: Final = _PLAIN | {float, Decimal, datetime}
_MINUTE: Final = timedelta(minutes=1)
_NO_NUMBER: Final = "JSON has no such number: use None, or a str"
RUNS_AGAIN: Final = (
    "`__post_init__` runs again on the worker, so write it so that a second time changes nothing, or mark what it "
    "computes with field(init=False, compare=False)"
)
_READ_AGAIN: Final = (
    "the worker reads what pydantic writes, so a validator or serializer must leave such a value as it is, and a "
    "SecretStr or a field with exclude=True cannot travel"
)


def difference(given: Any, read: Any, path: str = "$", owner: Any = None) -> str | None:
    """Describe where a value that was read differs from the one that was sent; None if nowhere.

    Args:
        owner: The object whose field the values are.

    Raises:
        RecursionError: They are nested too deeply.
        Exception: Whatever the `==` of an unknown type raises.
    """
    parts, others = _parts(given), _parts(read)
    if type(given) is not type(read):
        return None if _stands_for(given, read) else f"{_change(given, read, path)}; {_mend(given, read)}"
    if parts is None or others is None:
        return None if _same(given, read) else f"{_change(given, read, path)}{_cause(given, owner)}"
    if lost := [key for key in parts if key not in others]:
        return f"{_change(given, read, path)}; {_mend_of_keys(given, lost)}"
    if len(parts) != len(others):
        return f"{_change(given, read, path)}{_cause(given, owner)}"
    owner = owner if isinstance(given, (list, tuple, dict, set, frozenset)) else given
    if isinstance(given, dict) and not all(type(key) is str for key in given):
        arrived = {key: key for key in read}
        for key in given:
            if (found := difference(key, arrived[key], f"the key {described(key)} of {path}", owner)) is not None:
                return found
    for key, part in parts.items():
        other = others[key]
        if type(part) is type(other) and type(part) in _PLAIN and part == other:
            continue  # the most frequent case: no path is made
        if (found := difference(part, other, path + _step(given, key), owner)) is not None:
            return found
    return None


def non_finite(value: object, path: str = "$") -> str | None:
    """Describe the first `nan` or infinity within a value; None if there is none."""
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{path} is {value!r}; {_NO_NUMBER}"
    found = (non_finite(part, path + _step(value, key)) for key, part in (_parts(value) or {}).items())
    return next((each for each in found if each is not None), None)


def unwritable(value: object, write: Callable[[Any], object], path: str = "$", depth: int = 50) -> str:
    """Return the path of the innermost part that cannot be written, and the part, of a value that cannot be written.

    Args:
        write: Raises an error for what cannot be written.
        depth: The longest path that is looked for.
    """
    for key, part in (_parts(value) or {}).items() if depth else ():
        try:
            write(part)
        except Exception:  # whatever an author's class raises
            return unwritable(part, write, path + _step(value, key), depth - 1)
    return f"{path}, {described(value)},"


def described(value: object) -> str:
    """A value for an error, in one short line. Its `repr` may raise anything."""
    try:
        return shown(" ".join(repr(value).split()))
    except Exception:
        return f"a {type(value).__name__}"


def in_whole_minutes(offset: timedelta | None) -> bool:
    """Whether msgspec writes this offset from UTC as it is."""
    return offset is not None and not offset % _MINUTE


def _parts(value: Any) -> Mapping[Any, Any] | None:
    """The values that a value consists of, by index, key or name; None for one that is compared as a whole."""
    kind = type(value)
    if kind in _WITHOUT_PARTS:
        return None
    if isinstance(value, dict):
        return value
    if isinstance(value, (list, tuple)):
        return dict(enumerate(value))
    if isinstance(value, (set, frozenset)):
        return {each: each for each in value}
    names: Iterable[str]
    if is_pydantic(kind):
        names = [*kind.__pydantic_fields__, *(getattr(value, "__pydantic_extra__", None) or ())]
    elif dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind) if field.init or field.compare]
    elif isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
    elif hasattr(kind, "__attrs_attrs__"):
        names = [field.name for field in kind.__attrs_attrs__]
    else:
        return None
    return {name: getattr(value, name, _MISSING) for name in names}


def _step(value: object, key: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{key}]"
    return f"[{described(key)}]" if isinstance(value, (dict, set, frozenset)) else f".{key}"


def _stands_for(given: Any, read: Any) -> bool:
    """Whether a value of another type counts as unchanged."""
    if type(read) is float:
        return type(given) is int and given == read
    if type(read) not in (str, int) or not isinstance(given, Enum):
        return False
    # Not a `class Colour(str, Enum)`: its text is another one.
    return given == read and str(given) == str(read)


def _same(given: Any, read: Any) -> bool:
    """Whether two values of one type are the same. Neither has parts."""
    if isinstance(given, (float, Decimal)):
        return repr(given) == repr(read)  # nan differs from itself, 0.0 equals -0.0, a signalling nan raises an error
    if isinstance(given, (datetime, time)):
        return _clock(given) == _clock(read)
    if isinstance(given, (msgspec.Raw, memoryview)):
        return bytes(given) == bytes(read)
    return bool(given == read)


def _clock(moment: datetime | time) -> tuple[Any, ...]:
    """What of a time travels. No two zones are compared: in an hour that comes twice, a time equals none elsewhere."""
    naive = moment.tzinfo is None
    return moment.replace(tzinfo=None), naive, moment.fold if naive else 0, moment.utcoffset()


def _change(given: object, read: object, path: str) -> str:
    kind, other = type(given).__name__, type(read).__name__
    if type(given) is not type(read) and not (_parts(given) is None is _parts(read)):
        return f"{path} is a {kind}, and would arrive as a {other}"
    text, arrived = described(given), described(read)
    # A secret looks like any other one.
    return f"{path} is {text}, and would arrive as {arrived if arrived != text else f'another {other}'}"


def _mend(given: object, read: object) -> str:
    """How to mend a value that would arrive as one of another type."""
    if isinstance(given, float) and not math.isfinite(given):
        return _NO_NUMBER
    kind, other = type(given).__name__, type(read).__name__
    if type(read) in (dict, list, set, frozenset) and isinstance(given, type(read)):
        return f"give a plain {other}"
    return f"give a {other}, or annotate the field with {kind}"


def _mend_of_keys(given: object, lost: list[Any]) -> str:
    """How to mend a value of which these keys, elements or names do not arrive."""
    if any(isinstance(key, float) and not math.isfinite(key) for key in lost):
        return _NO_NUMBER
    kinds = sorted({type(key).__name__ for key in lost} - {"str"})
    if isinstance(given, dict):
        if kinds:
            return f"give str as keys, or annotate them, e.g. dict[{kinds[0]}, ...]"
        return f"leave out {shown(', '.join(map(repr, lost)))}, which its type does not name"
    if isinstance(given, (set, frozenset)):
        return f"annotate its elements, e.g. {type(given).__name__}[{(kinds or ['str'])[0]}]"
    return f"{', '.join(lost)} would be lost"


def _cause(given: object, owner: object) -> str:
    """Why a value changes, though its type does not, and how to mend it."""
    if isinstance(given, (datetime, time)):
        if given.tzinfo is None and given.fold:
            return "; a time without a time zone loses its fold: give it one, e.g. UTC"
        if given.tzinfo is not None and not in_whole_minutes(given.utcoffset()):
            return "; only offsets of whole minutes travel: give it in UTC"
    if hasattr(owner, "__post_init__") or hasattr(owner, "__attrs_post_init__"):
        return f"; {RUNS_AGAIN}"
    if is_pydantic(type(owner)):
        return f"; {_READ_AGAIN}"
    return ", which JSON does not carry unchanged"
