"""The headers of a task message: a promise to every language, pinned here."""

from __future__ import annotations

from collections import OrderedDict
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diracx.tasks.plumbing.exceptions import MalformedTaskError
from diracx.tasks.plumbing.jetstream.connection.commands import header_block
from diracx.tasks.plumbing.jetstream.connection.incoming import parse_headers
from diracx.tasks.plumbing.wire.envelope import MAX_LABELS_BYTES, Envelope
from support.value_shapes import Awkward, BrokenZone, Owner

FULL = Envelope(
    name="lollygag:SyncOwnersTask",
    id="0192f3a4-0000-7000-8000-000000000001",
    submitted=datetime(2026, 12, 1, 6, 0, 0, 5, tzinfo=timezone(timedelta(hours=1))),
    due=datetime(2026, 12, 1, 6, tzinfo=UTC),
    expires=datetime(2026, 12, 1, 7, tzinfo=UTC),
    parent="0192f3a4-0000-7000-8000-000000000000",
    group="nightly:7",
    callback="weekly",
    keep_result=86400.0,
    labels={"vo": "lhcb", "note": 'a "b"\n'},
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    moved=2,
)
FULL_HEADERS = {
    "Task-Name": "lollygag:SyncOwnersTask",
    "Task-Id": "0192f3a4-0000-7000-8000-000000000001",
    "Task-Version": "1",
    "Nats-Msg-Id": "0192f3a4-0000-7000-8000-000000000001",
    "Task-Submitted": "2026-12-01T05:00:00.000005Z",
    "Task-Due": "2026-12-01T06:00:00.000000Z",
    "Task-Expires": "2026-12-01T07:00:00.000000Z",
    "Task-Parent": "0192f3a4-0000-7000-8000-000000000000",
    "Task-Group": "nightly:7",
    "Task-Callback": "weekly",
    "Task-Keep-Result": "86400",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "Task-Labels": r'{"vo":"lhcb","note":"a \"b\"\n"}',
    "Task-Moved": "2",
}

texts = st.text(st.characters(codec="utf-8"), min_size=1)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=8,
)
times = st.none() | st.datetimes(timezones=st.just(UTC))


def test_every_header_has_its_name_and_form() -> None:
    assert FULL.to_headers() == FULL_HEADERS
    assert Envelope.from_headers(FULL_HEADERS, 7) == FULL


def test_an_absent_value_has_no_header() -> None:
    assert Envelope(name="a:B", id="1").to_headers() == {
        "Task-Name": "a:B",
        "Task-Id": "1",
        "Task-Version": "1",
        "Nats-Msg-Id": "1",
    }


def test_a_message_needs_no_header_but_its_name() -> None:
    read = Envelope.from_headers({"Task-Name": "lollygag:SyncOwnersTask"}, sequence=42)
    assert read == Envelope(name="lollygag:SyncOwnersTask", id="42")
    assert read.labels == {}


def test_an_empty_id_counts_as_missing() -> None:
    assert Envelope.from_headers({"Task-Name": "a:B", "Task-Id": ""}, sequence=42).id == "42"


def test_unknown_headers_are_ignored() -> None:
    read = Envelope.from_headers({**FULL_HEADERS, "Nats-Stream": "X", "Task-Colour": "blue"}, 7)
    assert read == FULL


def test_the_version_is_read_as_a_number() -> None:
    assert Envelope.from_headers({"Task-Name": "a:B", "Task-Version": "2"}, 1).version == 2


@settings(deadline=None)
@given(
    st.builds(
        Envelope,
        name=texts,
        id=texts,
        submitted=times,
        due=times,
        expires=times,
        parent=st.none() | texts,
        group=st.none() | texts,
        labels=st.dictionaries(texts, json_values),
        traceparent=st.none() | texts,
        moved=st.integers(0, 2**31),
    )
)
def test_headers_are_parsed_into_an_equal_envelope(envelope: Envelope) -> None:
    assert Envelope.from_headers(envelope.to_headers(), 7) == envelope


@settings(deadline=None)
@given(st.dictionaries(st.text(st.characters(codec="utf-8")), json_values))
def test_labels_of_any_text_are_one_line_of_ascii(labels: dict[str, Any]) -> None:
    text = Envelope(name="a:B", id="1", labels=labels).to_headers().get("Task-Labels", "{}")
    assert text.isascii()
    assert text.isprintable() or "\x7f" in text
    assert not set(text) & {"\r", "\n"}


class Site(StrEnum):
    CERN = "LCG.CERN.cern"


class Colour(Enum):
    RED = "red"


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("it has no text")


def endless() -> list[Any]:
    inner: list[Any] = []
    inner.append(inner)
    return inner


@pytest.mark.parametrize(
    "value",
    [True, 1, 1.0, -0.0, 2**64, -(10**100), None, [], {}, ["a", [None]], {"é": [1]}, Site.CERN, OrderedDict(a=1)],
)
def test_a_label_of_a_json_type_arrives_as_it_is(value: object) -> None:
    headers = Envelope(name="a:B", id="1", labels={"first": "x", "it": value}).to_headers()
    arrived = Envelope.from_headers(headers, 7).labels
    assert arrived == {"first": "x", "it": value}
    assert str(arrived["it"]) == str(dict(value) if isinstance(value, OrderedDict) else value)


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        [1, float("-inf")],
        (1, 2),
        {"deep": [("a",)]},
        {1},
        frozenset("a"),
        b"a",
        datetime(2026, 1, 1, tzinfo=UTC),
        timedelta(1),
        Decimal(1),
        UUID(int=1),
        Colour.RED,
        {1: "a"},
        {"a": {None: 1}},
        "\udcff",
        {"\udcff": 1},
        10**5_000,
        {"é": -(10**5_000)},
        1j,
        object(),
        Unshowable(),
        endless(),
        Owner("a"),
        datetime(2026, 1, 1, tzinfo=BrokenZone()),
        Awkward(),
        "two\nlines" * 10_000 + "\udcff",
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_label_that_would_arrive_as_something_else_is_refused_and_named(value: object) -> None:
    with pytest.raises(MalformedTaskError, match=r"^the label 'bad' is ") as caught:
        Envelope(name="a:B", id="1", labels={"good": 1, "bad": value}).to_headers()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", [1, None, ("a",), "\udcff"])
def test_a_name_of_a_label_is_text(name: Any) -> None:
    with pytest.raises(MalformedTaskError, match=r"^the label ") as caught:
        Envelope(name="a:B", id="1", labels={name: "x"}).to_headers()
    assert repr(name) in str(caught.value)


def test_labels_that_a_dead_letter_could_not_keep_are_refused_and_the_largest_is_named() -> None:
    room = MAX_LABELS_BYTES - len('{"small":1,"big":""}')
    Envelope(name="a:B", id="1", labels={"small": 1, "big": "x" * room}).to_headers()
    with pytest.raises(MalformedTaskError, match=rf"have {MAX_LABELS_BYTES + 1} bytes .* the largest is 'big'"):
        Envelope(name="a:B", id="1", labels={"small": 1, "big": "x" * (room + 1)}).to_headers()
    with pytest.raises(MalformedTaskError, match="the largest is 'big'"):
        Envelope(name="a:B", id="1", labels={"small": 1, "big": "é" * (room // 2)}).to_headers()


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        Envelope(name="a:B", id="1", due=datetime(2026, 1, 1)).to_headers()  # noqa: DTZ001


@pytest.mark.parametrize("headers", [None, {}, {"Task-Id": "1"}, {"Task-Name": ""}])
def test_a_message_without_a_name_is_malformed(headers: dict[str, str] | None) -> None:
    with pytest.raises(MalformedTaskError, match="Task-Name is missing"):
        Envelope.from_headers(headers, 7)


@pytest.mark.parametrize("header", ["Task-Submitted", "Task-Due", "Task-Expires"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "1764547200",
        "2026-12-01",
        "2026-12-01T06:00:00",
        "2026-13-01T06:00:00Z",
        "0001-01-01T00:00:00+14:00",
    ],
)
def test_a_time_that_does_not_parse_is_malformed_and_its_header_named(header: str, text: str) -> None:
    with pytest.raises(MalformedTaskError, match=rf"^{header}: "):
        Envelope.from_headers({"Task-Name": "a:B", header: text}, 7)


@pytest.mark.parametrize("header", ["Task-Version", "Task-Moved"])
@pytest.mark.parametrize("text", ["", "one", "1.5", "9" * 5_000])
def test_a_version_that_is_no_number_is_malformed_and_named(header: str, text: str) -> None:
    with pytest.raises(MalformedTaskError, match=rf"^{header}: "):
        Envelope.from_headers({"Task-Name": "a:B", header: text}, 7)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "1", "vo=lhcb", '{"a":NaN}', '{"a":1e999}', '{"a":"\udcff"}', "[" * 100_000],
)
def test_labels_that_do_not_parse_are_malformed_and_named(text: str) -> None:
    with pytest.raises(MalformedTaskError, match=r"^Task-Labels: "):
        Envelope.from_headers({"Task-Name": "a:B", "Task-Labels": text}, 7)


@pytest.mark.parametrize("header", ["Task-Version", "Task-Due"])
def test_a_malformed_header_is_cut_where_it_is_quoted(header: str) -> None:
    with pytest.raises(MalformedTaskError, match=rf"^{header}: ") as raised:
        Envelope.from_headers({"Task-Name": "a:B", header: "x" * 3_000}, 7)
    assert len(str(raised.value)) < 300


def test_labels_that_another_language_wrote_may_be_any_object() -> None:
    text = '{"n": 1, "tags": ["a", {"b": null}], "x": 1.5, "on": true}'
    read = Envelope.from_headers({"Task-Name": "a:B", "Task-Labels": text}, 7)
    assert read.labels == {"n": 1, "tags": ["a", {"b": None}], "x": 1.5, "on": True}


USUAL = ("Task-Name", "Task-Id", "Task-Version", "Nats-Msg-Id", "Task-Submitted")
ODD = ("", " ", "a b", "1", "01", "2", "x: y", "\u00e9", "2026-02-30T06:00:00Z", "2026-12-01", "2026-12-01T06:00Z", "Z")


def test_the_headers_of_most_tasks_are_read_at_once() -> None:
    usual = Envelope(name="lollygag:SyncOwnersTask", id="1", submitted=datetime.now(UTC))
    assert Envelope.of_usual_headers(header_block(usual.to_headers())) == usual
    assert Envelope.of_usual_headers(header_block(FULL_HEADERS)) is None
    assert Envelope.of_usual_headers(b"") is None


@given(st.data())
def test_what_is_read_at_once_is_what_all_headers_say(data: st.DataObject) -> None:
    headers = {name: FULL_HEADERS[name] for name in USUAL}
    for name in data.draw(st.lists(st.sampled_from([*USUAL, "Nats-Stream-Source", "Task-Group"]), max_size=2)):
        headers[name] = data.draw(st.sampled_from(ODD) | texts)
    block = header_block(headers)
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(block)))
        cut = data.draw(st.integers(0, 3))
        block = block[:at] + data.draw(st.sampled_from([b"", b" ", b"\r\n", b"\n", b":", b"x"])) + block[at + cut :]
    if (read := Envelope.of_usual_headers(block)) is not None:
        assert read == Envelope.from_headers(parse_headers(block), 1)
