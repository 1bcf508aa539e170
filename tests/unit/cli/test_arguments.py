"""A task from arguments, as a command line gives them."""

from __future__ import annotations

from decimal import Decimal

import pytest

from diracx.tasks.plumbing.exceptions import MalformedTaskError
from diracx.tasks.plumbing.wire.fields import FieldsCodec
from support.task_shapes import Owner, Sealed, Sync


def test_arguments_are_converted_to_the_types_of_the_fields() -> None:
    codec = FieldsCodec(Owner)
    assert codec.from_arguments(["alice"], {}) == Owner("alice")
    assert codec.from_arguments([], {"name": "alice", "quota": "1.5"}) == Owner("alice", Decimal("1.5"))
    assert codec.from_arguments(["alice"], {"quota": "1.5"}) == Owner("alice", Decimal("1.5"))


def test_keyword_only_fields_are_given_by_name_only() -> None:
    codec = FieldsCodec(Sealed)
    assert codec.from_arguments([], {"owner": {"name": "a"}}) == Sealed(owner=Owner("a"))
    with pytest.raises(MalformedTaskError, match=r"takes 0 positional arguments \(none\), got 1"):
        codec.from_arguments([{"name": "a"}], {})


@pytest.mark.parametrize(
    ("args", "kwargs", "why"),
    [
        ([7], {}, r"Expected `str`, got `int` - at `\$\.owner_name`"),
        (["a", "5"], {}, r"Expected `int`, got `str` - at `\$\.limit`"),
        (["a", True], {}, r"Expected `int`, got `bool` - at `\$\.limit`"),
        (["a", float("nan")], {}, r"^Sync: the value at \$\.limit is nan; JSON has no such number"),
        ([], {"owner_name": {"a": [1, float("inf")]}}, r"^Sync: the value at \$\.owner_name\['a'\]\[1\] is inf"),
        (["a", 1, 2], {}, r"takes 2 positional arguments \(owner_name, limit\), got 3"),
        (["a"], {"owner_name": "b"}, "owner_name is given twice"),
        (["a"], {"limt": 5}, "no field 'limt'; did you mean limit?"),
        (["a"], {"zzz": 5}, "no field 'zzz'; its fields: owner_name, limit"),
        ([], {}, "missing required field `owner_name`"),
        ([object()], {}, "Sync: .*object"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(args: list[object], kwargs: dict[str, object], why: str) -> None:
    with pytest.raises(MalformedTaskError, match=why):
        FieldsCodec(Sync).from_arguments(args, kwargs)


@pytest.mark.parametrize("depth", [900, 5_000])
def test_an_argument_that_is_nested_too_deeply_is_one_line(depth: int) -> None:
    value: object = None
    for _ in range(depth):
        value = [value]
    with pytest.raises(MalformedTaskError, match=r"^Sync: an argument is nested too deeply; make it flat$"):
        FieldsCodec(Sync).from_arguments([value], {})
