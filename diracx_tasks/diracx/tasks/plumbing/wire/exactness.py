"""A quick test of whether a task arrives exactly, without building it from its JSON.

Each class gets a function that looks at the types of the values, and at those values of which JSON carries only some:

    def f0(v): return type(v) is SyncOwnersTask and type(v.owner_name) is str and is_exact_datetime(v.since)

* True is certain: msgspec reads the value that it has written.
* False decides nothing. The task must be built from its JSON and compared, see `difference`. A class whose own code
  runs when it is built (`__post_init__`) always gives False.

The functions are made from source text, as the standard library makes the methods of dataclasses. So a test costs less
than reading the JSON; with nested closures it costs more.
"""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag
from math import isfinite
from types import MemberDescriptorType
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import inspect as shapes

from diracx.tasks.plumbing.wire.difference import in_whole_minutes

# Of exactly these types, msgspec reads each value that it can write.
_BY_TYPE: Final[dict[type, type]] = {
    shapes.BoolType: bool,
    shapes.IntType: int,
    shapes.StrType: str,
    shapes.BytesType: bytes,
    shapes.ByteArrayType: bytearray,
    shapes.DateType: date,
    shapes.TimeDeltaType: timedelta,
    shapes.UUIDType: UUID,
    shapes.DecimalType: Decimal,
}
_COLLECTIONS: Final[dict[type, type]] = {
    shapes.ListType: list,
    shapes.SetType: set,
    shapes.FrozenSetType: frozenset,
    shapes.VarTupleType: tuple,
}
_KEYS: Final = (str, int, date, UUID)
# Constraints of `msgspec.Meta`. The others are left to msgspec.
_LIMITS: Final = {
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "min_length": "len({0}) >= {1}",
    "max_length": "len({0}) <= {1}",
}
_OTHER_LIMITS: Final = ("multiple_of", "pattern", "tz")
_UNKNOWN: Final = "False"
_LARGEST: Final = 2**53  # all ints up to here are floats, too
_LEAVES: Final = frozenset({str, int, bool, type(None)})
_CONSTRUCTORS: Final = (object.__new__, msgspec.Struct.__new__)


def compile_test(shape: shapes.Type) -> Callable[[Any], bool]:
    """Return the test of a dataclass. It may raise an error, which decides nothing either."""
    source = _Source()
    return source.compiled(source.of_class(shape))


def is_json(value: Any) -> bool:
    """Whether a value consists of nothing but what JSON has."""
    kind = type(value)
    if kind is float:
        return isfinite(value)
    if kind is list:
        return _LEAVES.issuperset(map(type, value)) or all(map(is_json, value))
    if kind is dict:
        values = value.values()
        leaves = _LEAVES.issuperset(map(type, values)) or all(map(is_json, values))
        return leaves and all(type(key) is str for key in value)
    return kind in _LEAVES


def _is_exact_datetime(moment: Any) -> bool:
    if type(moment) is not datetime:
        return False
    zone = moment.tzinfo
    if zone is None:
        return not moment.fold
    if zone is UTC:
        return True
    if type(zone) is not timezone:
        # Only now: most tasks carry UTC, and what zoneinfo loads takes 0.3 MB of a worker.
        from zoneinfo import ZoneInfo

        if type(zone) is not ZoneInfo:
            return False
    return in_whole_minutes(moment.utcoffset())


def _is_exact_time(moment: Any) -> bool:
    if type(moment) is not time:
        return False
    if moment.tzinfo is None:
        return not moment.fold
    return type(moment.tzinfo) is timezone and in_whole_minutes(moment.utcoffset())


class _Source:
    """The text of the functions for a class and for all that it consists of, and the objects that they name."""

    def __init__(self) -> None:
        self._names: dict[str, Any] = {
            "isfinite": isfinite,
            "is_json": is_json,
            "is_exact_datetime": _is_exact_datetime,
            "is_exact_time": _is_exact_time,
        }
        self._classes: dict[Any, str] = {}
        self._text: list[str] = []

    def compiled(self, name: str) -> Callable[[Any], bool]:
        """Return the function of this name."""
        exec("\n".join(self._text), self._names)  # noqa: S102 - our own text, with the names of fields
        test: Callable[[Any], bool] = self._names[name]
        return test

    def of_class(self, shape: Any) -> str:
        """Return the name of the function for a class. A class may contain itself."""
        if (name := self._classes.get(shape.cls)) is None:
            name = self._classes[shape.cls] = f"f{len(self._classes)}"
            self._define(name, self._of_fields(shape))
        return name

    def _define(self, name: str, test: str) -> None:
        self._text.append(f"def {name}(v): return {test}")

    def _named(self, value: object) -> str:
        name = f"x{len(self._names)}"
        self._names[name] = value
        return name

    def _is(self, v: str, kind: type) -> str:
        return f"type({v}) is {self._named(kind)}"

    def _of_value(self, shape: Any, v: str) -> str:
        """The test of a value of this type, as an expression; `v` is the expression of the value."""
        match shape:
            case shapes.Metadata():
                return self._of_value(shape.type, v)
            case shapes.AnyType():
                return f"is_json({v})"
            case shapes.NoneType():
                return f"{v} is None"
            case shapes.UnionType():
                return f"({' or '.join(self._of_value(each, v) for each in shape.types)})"
            case shapes.LiteralType():
                kinds = self._named({type(each) for each in shape.values})
                pairs = self._named({(type(each), each) for each in shape.values})
                return f"(type({v}) in {kinds} and (type({v}), {v}) in {pairs})"
            case shapes.DataclassType() | shapes.StructType() | shapes.NamedTupleType() | shapes.TypedDictType():
                return f"{self.of_class(shape)}({v})"
        limits = _limits(shape)
        if not limits.keys() <= _LIMITS.keys():
            return _UNKNOWN
        within = [_LIMITS[name].format(v, self._named(limit)) for name, limit in limits.items()]
        return f"({' and '.join([self._without_limits(shape, v), *within])})"

    def _without_limits(self, shape: Any, v: str) -> str:
        if (kind := _type_of(shape)) is not None:
            return self._is(v, kind)
        if (kind := _COLLECTIONS.get(type(shape))) is not None:
            return f"{self._is(v, kind)} and {self._of_each(shape.item_type, v, v)}"
        match shape:
            case shapes.FloatType():
                # An int is allowed for a float, and arrives as one.
                return (
                    f"(type({v}) is float and isfinite({v}) or type({v}) is int and -{_LARGEST} <= {v} <= {_LARGEST})"
                )
            case shapes.DateTimeType():
                return f"is_exact_datetime({v})"
            case shapes.TimeType():
                return f"is_exact_time({v})"
            case shapes.TupleType():
                items = [self._of_value(each, f"{v}[{index}]") for index, each in enumerate(shape.item_types)]
                return " and ".join([self._is(v, tuple), f"len({v}) == {len(items)}", *items])
            case shapes.DictType():
                keys = shapes.StrType() if isinstance(shape.key_type, shapes.AnyType) else shape.key_type
                if (kind := _type_of(keys)) in _KEYS or (kind is not None and issubclass(kind, Enum)):
                    values = self._of_each(shape.value_type, f"{v}.values()", v)
                    return f"{self._is(v, dict)} and {self._of_each(keys, v, v)} and {values}"
        return _UNKNOWN

    def _of_each(self, shape: Any, items: str, sized: str) -> str:
        """The test of all items; `sized` has as many."""
        if (kind := _type_of(shape)) is not None and not _limits(shape):
            return f"list(map(type, {items})).count({self._named(kind)}) == len({sized})"
        test = self._of_value(shape, "v")
        name = f"each{len(self._text)}"
        self._define(name, test)
        return f"all(map({name}, {items}))"

    def _of_fields(self, shape: Any) -> str:
        """The test of an object, by its class and its fields."""
        kind = getattr(shape.cls, "__origin__", shape.cls)
        if isinstance(shape, shapes.TypedDictType):
            known = self._named({field.name for field in shape.fields})
            required = self._named({field.name for field in shape.fields if field.required})
            tests = [f"{self._is('v', dict)} and {required} <= v.keys() <= {known}"]
            for field in shape.fields:
                value = f"v[{field.name!r}]"
                tests.append(f"({field.name!r} not in v or {self._of_value(field.type, value)})")
            return " and ".join(tests)
        if isinstance(shape, shapes.NamedTupleType):
            values = [f"v[{index}]" for index in range(len(shape.fields))]
        elif _decides_itself(kind, [field.name for field in shape.fields]):
            return _UNKNOWN
        else:
            values = [f"v.{field.name}" for field in shape.fields]
        tests = [self._of_value(field.type, value) for field, value in zip(shape.fields, values, strict=True)]
        return " and ".join([self._is("v", kind), *tests])


def _limits(shape: shapes.Type) -> dict[str, Any]:
    limits = {name: getattr(shape, name, None) for name in (*_LIMITS, *_OTHER_LIMITS)}
    return {name: limit for name, limit in limits.items() if limit is not None}


def _type_of(shape: Any) -> type | None:
    """The type of which each value is read as it was written; None if that takes more than the type."""
    if not isinstance(shape, shapes.EnumType):
        return _BY_TYPE.get(type(shape))
    members = list(shape.cls)
    read = msgspec.json.decode(msgspec.json.encode(members), type=list[shape.cls])
    # The members of a Flag can be combined.
    return shape.cls if read == members and not issubclass(shape.cls, Flag) else None


def _decides_itself(kind: Any, names: Sequence[str]) -> bool:
    """Whether code of the class runs when it is built, or it does not write all fields."""
    if hasattr(kind, "__post_init__") or hasattr(kind, "__attrs_attrs__") or kind.__new__ not in _CONSTRUCTORS:
        return True
    if issubclass(kind, msgspec.Struct) and kind.__struct_config__.omit_defaults:
        return True
    if not all(name.isidentifier() and name.isascii() and not keyword.iskeyword(name) for name in names):
        return True  # no source text can name it
    attributes = (inspect.getattr_static(kind, name, None) for name in names)
    return any(hasattr(each, "__set__") and not isinstance(each, MemberDescriptorType) for each in attributes)
