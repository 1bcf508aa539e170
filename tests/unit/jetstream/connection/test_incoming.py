"""Messages to listeners come out of any cuts of the stream of bytes as nats-py's own parser gives them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.protocol.parser import Parser

from diracx.tasks.plumbing.jetstream.connection.client import PersistentClient
from diracx.tasks.plumbing.jetstream.connection.incoming import (
    ListenerParser,
    Received,
    parse_header_lines,
    parse_headers,
)

Seen = list[tuple[object, ...]]

HEARD, UNHEARD = b"7", b"8"
"""The ids of a subscription with a listener, and of one without."""


class Recorder:
    """Stands in for the client: it records what the parser has it do."""

    def __init__(self) -> None:
        self.seen: Seen = []
        self.stats = {"in_msgs": 0, "in_bytes": 0}
        self.errors: list[Exception] = []

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        self.seen.append((b"%d" % sid, subject, reply, data, headers or b""))

    async def _process_ping(self) -> None:
        self.seen.append(("PING",))

    async def _process_pong(self) -> None:
        self.seen.append(("PONG",))

    async def _process_info(self, info: object) -> None:
        self.seen.append(("INFO", info))

    async def _process_err(self, text: str) -> None:
        self.seen.append(("ERR", text))

    async def _error_cb(self, error: Exception) -> None:
        self.errors.append(error)

    def hear(self, message: Received) -> None:
        self.seen.append((HEARD, message.raw_subject, message.raw_reply, message.data, message.block))


def parsed(make: Callable[[Recorder], Parser], reads: Sequence[bytes]) -> Recorder:
    async def feed() -> Recorder:
        recorder = Recorder()
        parser = make(recorder)
        for read in reads:
            await parser.parse(read)
        return recorder

    return asyncio.run(feed())


def ours(recorder: Recorder) -> Parser:
    return ListenerParser(recorder, {HEARD: recorder.hear})


def message(sid: bytes, reply: bytes, block: bytes, data: bytes) -> bytes:
    address = b" ".join(part for part in (b"a.subject", sid, reply) if part)
    if block:
        return b"HMSG %b %d %d\r\n%b%b\r\n" % (address, len(block), len(block) + len(data), block, data)
    return b"MSG %b %d\r\n%b\r\n" % (address, len(data), data)


replies = st.sampled_from([b"", b"$JS.ACK.S.C.1.7.7.1000.0"])
blocks = st.sampled_from(
    [b"", b"NATS/1.0\r\nTask-Name: a:B\r\nTask-Id: 1\r\n\r\n", b"NATS/1.0 404 No Messages\r\n\r\n"]
)
payloads = st.binary(max_size=30) | st.sampled_from([b"MSG a 7 2\r\nhi\r\n", b"\r\n", b"PING\r\n"])
messages = st.builds(message, st.sampled_from([HEARD, HEARD, UNHEARD]), replies, blocks, payloads)
others = st.sampled_from([b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"-ERR 'Slow'\r\n", b'INFO {"a":1}\r\n'])
odd = st.sampled_from([b"MSG  a.subject\t7  2\r\nhi\r\n", b"HMSG a.subject 7  12 14\r\nNATS/1.0\r\n\r\nhi\r\n"])
"""As no server writes it; nats-py's parser takes it."""
streams = st.lists(messages | others | odd, max_size=8).map(b"".join)


@given(streams, st.data())
def test_any_cuts_give_what_the_parser_of_nats_py_gives(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    edges = [0, *cuts, len(stream)]
    reads = [stream[begin:end] for begin, end in pairwise(edges)]
    assert parsed(ours, reads).seen == parsed(Parser, [stream]).seen


def test_a_message_larger_than_many_reads_arrives_whole() -> None:
    large = message(HEARD, b"", b"", bytes(300_000))
    stream = large + message(HEARD, b"", b"", b"next")
    reads = [stream[begin : begin + 10_000] for begin in range(0, len(stream), 10_000)]
    assert [len(seen[3]) for seen in parsed(ours, reads).seen] == [300_000, 4]  # type: ignore[arg-type]


def test_an_error_of_a_listener_loses_no_other_message() -> None:
    heard: list[bytes] = []

    def hear(received: Received) -> None:
        heard.append(received.data)
        if received.data == b"first":
            raise ValueError("of the listener")

    stream = b"".join(message(HEARD, b"", b"", data) for data in (b"first", b"second"))
    recorder = parsed(lambda client: ListenerParser(client, {HEARD: hear}), [stream])
    assert heard == [b"first", b"second"]
    assert [str(error) for error in recorder.errors] == ["of the listener"]
    assert recorder.stats == {"in_msgs": 2, "in_bytes": 11}


def test_a_listener_that_leaves_hears_nothing_more() -> None:
    heard: list[bytes] = []
    listeners: dict[bytes, Callable[[Received], object]] = {}

    def hear(received: Received) -> None:
        heard.append(received.data)
        listeners.clear()

    listeners[HEARD] = hear
    stream = b"".join(message(HEARD, b"", b"", data) for data in (b"first", b"second"))
    recorder = parsed(lambda client: ListenerParser(client, listeners), [stream])
    assert heard == [b"first"]
    assert [seen[3] for seen in recorder.seen] == [b"second"]  # nats-py drops it: nobody subscribes


def test_the_client_uses_it() -> None:
    assert isinstance(PersistentClient()._ps, ListenerParser)


@pytest.mark.parametrize(
    ("block", "headers"),
    [
        (b"", None),
        (b"NATS/1.0\r\n\r\n", None),
        (b"NATS/1.0\r\nA: 1\r\nB:2 \r\nA: 3\r\n\r\n", {"A": "3", "B": "2"}),
        (b"NATS/1.0 404\r\n\r\n", {"Status": "404"}),
        (b"NATS/1.0 404 No Messages\r\n\r\n", {"Status": "404", "Description": "No Messages"}),
        (
            b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 5\r\n\r\n",
            {"Status": "100", "Description": "Idle Heartbeat", "Nats-Last-Consumer": "5"},
        ),
        (b"NATS/1.0 503\r\nNats-Subject: a.b\r\n\r\n", {"Status": "503", "Nats-Subject": "a.b"}),
        (
            b"NATS/1.0\r\nno colon\r\nodd name: 1\r\n Led : 2\r\nUml\xc3\xa4ut: 3\r\nBytes: \xff\r\n\r\n",
            {"Led": "2", "Bytes": "\ufffd"},
        ),
    ],
)
def test_the_headers_of_a_block(block: bytes, headers: dict[str, str] | None) -> None:
    assert parse_headers(block) == headers
    assert Received(b"a", b"", block, b"").headers == headers


@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,8}", fullmatch=True),
        st.from_regex(r"[ -~]{0,9}", fullmatch=True),
        max_size=5,
    )
)
def test_header_lines_are_read_as_nats_py_reads_them(headers: dict[str, str]) -> None:
    raw = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode() + b"\r\n"
    assert parse_header_lines(raw) == Client._parse_header_lines(raw)
