"""The commands that publish are those of nats-py, byte for byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.errors import BadHeaderError, BadSubjectError

from diracx.tasks.plumbing.jetstream.connection.commands import header_block, publish_command

VALUES = st.one_of(st.text(), st.text(alphabet=" \t\r\na:é"))
NAMES = st.one_of(
    st.sampled_from(["Task-Name", "Task-Id", " Padded ", "", "  "]), st.from_regex(r"[A-Za-z!#-]{1,9}", fullmatch=True)
)


async def sent_by_nats_py(subject: str, reply: str, payload: bytes, headers: dict[str, str] | None) -> bytes:
    """What nats-py's client would write."""
    client = Client()
    await client._send_publish(subject, reply, payload, len(payload), headers)
    return b"".join(client._pending)


def sent_by_ours(subject: str, reply: str, payload: bytes, headers: dict[str, str] | None) -> bytes:
    return publish_command(subject, reply, header_block(headers) if headers else b"", payload)


@given(
    headers=st.dictionaries(NAMES, VALUES, max_size=5), reply=st.sampled_from(["", "_INBOX.a.7"]), payload=st.binary()
)
async def test_a_message_is_sent_as_nats_py_sends_it(headers: dict[str, str], reply: str, payload: bytes) -> None:
    expected = await sent_by_nats_py("a.subject", reply, payload, headers or None)
    assert sent_by_ours("a.subject", reply, payload, headers) == expected


@pytest.mark.parametrize("name", ["a/b", "a b", "é", "a:b", "a\r\nPUB x 0"])
def test_a_name_that_is_no_token_is_refused_each_time(name: str) -> None:
    for _ in range(2):
        with pytest.raises(BadHeaderError):
            header_block({"Task-Name": "a", name: "b"})


@pytest.mark.parametrize(
    ("subject", "reply"), [("", ""), ("a b", ""), ("a\r\nPUB x 0", ""), ("a", "b\n"), ("a\tb", "")]
)
def test_a_subject_with_white_space_is_refused(subject: str, reply: str) -> None:
    with pytest.raises(BadSubjectError):
        publish_command(subject, reply, b"", b"")


def test_a_value_brings_no_line_of_its_own() -> None:
    assert header_block({"A": "b\r\nC: d", "E": " f "}) == b"NATS/1.0\r\nA: b  C: d\r\nE: f\r\n\r\n"
