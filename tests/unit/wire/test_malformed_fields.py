"""Values that JSON cannot carry, and bodies that do not fit the fields."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diracx.tasks.plumbing.exceptions import MalformedTaskError
from diracx.tasks.plumbing.wire.fields import FieldsCodec
from support.task_shapes import Bare, Sealed, Sync, with_field


@pytest.mark.parametrize(
    "value", [object(), 1j, "\ud800", {(1, 2): 3}, Path("a")], ids=lambda value: type(value).__name__
)
def test_a_value_that_json_cannot_carry_is_refused_when_encoded(value: object) -> None:
    task_class = with_field(Any)
    with pytest.raises(MalformedTaskError, match=r"^Task: "):
        FieldsCodec(task_class).encode(task_class(value))


def test_a_value_that_contains_itself_is_refused_when_encoded() -> None:
    endless: list[object] = []
    endless.append(endless)
    task_class = with_field(Any)
    with pytest.raises(MalformedTaskError, match="recursion"):
        FieldsCodec(task_class).encode(task_class(endless))


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "the body is empty"),
        (b"{", "truncated"),
        (b'{"owner_name":"ali', "truncated"),
        (b'{"owner_name":"alice"', "truncated"),
        (b'{"owner_name":"alice"}x', "trailing characters"),
        (b"alice", "malformed"),
        (b"\xff\xfe", "malformed"),
        (b"[]", "Expected `object`, got `array`"),
        (b"null", "Expected `object`, got `null`"),
        (b'"alice"', "Expected `object`, got `str`"),
        (b"{}", "missing required field `owner_name`"),
        (b'{"owner_name":7}', r"Expected `str`, got `int` - at `\$\.owner_name`"),
        (b'{"owner_name":null}', r"Expected `str`, got `null` - at `\$\.owner_name`"),
        (b'{"owner_name":"a","limit":"5"}', r"Expected `int`, got `str` - at `\$\.limit`"),
        (b'{"owner_name":"a","limit":1.5}', r"Expected `int`, got `float` - at `\$\.limit`"),
        (b'{"owner_name":"a","limit":' + b"9" * 5_000 + b"}", r"out of range - at `\$\.limit`"),
        (b'{"owner_name":"\xff"}', "not UTF-8"),
        (b'{"owner_name":"\xc3"}', "not UTF-8"),
        (b'{"owner_name":"a","limit":' + DEEP + b"}", r"got `array` - at `\$\.limit`"),
        (b'{"owner_name":"a","unknown":' + DEEP + b"}", "nested too deeply"),
        (DEEP, "got `array`"),
    ],
    ids=lambda part: str(part[:40]),
)
def test_a_body_that_does_not_fit_is_malformed_and_the_path_is_named(body: bytes, why: str) -> None:
    with pytest.raises(MalformedTaskError, match=why):
        FieldsCodec(Sync).decode(body)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'{"owner":{"name":1}}', r"\$\.owner\.name"),
        (b'{"owner":{"name":"a","quota":"much"}}', r"\$\.owner\.quota"),
        (b'{"owner":{"name":"a"},"tags":["a",1]}', r"\$\.tags\[1\]"),
        (b'{"owner":{"name":"a"},"since":"soon"}', r"\$\.since"),
    ],
)
def test_the_path_of_a_bad_field_leads_into_nested_values(body: bytes, path: str) -> None:
    with pytest.raises(MalformedTaskError, match=f"at `{path}`"):
        FieldsCodec(Sealed).decode(body)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"7", b'{"a":' + DEEP + b"}"], ids=lambda b: str(b[:20]))
def test_a_class_without_fields_needs_an_object_too(body: bytes) -> None:
    with pytest.raises(MalformedTaskError):
        FieldsCodec(Bare).decode(body)


@settings(deadline=None)
@given(st.binary(max_size=60) | st.text().map(str.encode))
def test_no_bytes_raise_any_other_error(body: bytes) -> None:
    for codec in (FieldsCodec(Sync), FieldsCodec(Bare)):
        with contextlib.suppress(MalformedTaskError):
            codec.decode(body)


@pytest.mark.parametrize("error", [ValueError("too many"), KeyError("many"), SystemExit("many")], ids=repr)
def test_an_error_of_post_init_is_malformed(error: BaseException) -> None:
    @dataclass
    class Picky:
        number: int

        def __post_init__(self) -> None:
            raise error

    with pytest.raises(MalformedTaskError, match="many"):
        FieldsCodec(Picky).decode(b'{"number":1}')
