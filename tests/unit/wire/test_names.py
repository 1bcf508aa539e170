"""The names on the server. They are a promise: operators, permissions and other languages rely on them."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.wire.names import Namespace, escape, escape_entry, lock_key, split_task_name

# Lone surrogates included: a name may come from an undecodable file name.
texts = st.text(st.characters(), max_size=40)
parts = st.lists(texts, min_size=1, max_size=4)

QUEUES = [
    ("realtime", "small"),
    ("realtime", "medium"),
    ("realtime", "large"),
    ("normal", "small"),
    ("normal", "medium"),
    ("normal", "large"),
    ("background", "small"),
    ("background", "medium"),
    ("background", "large"),
]


@pytest.mark.parametrize(("namespace", "upper"), [("diracx", "DIRACX"), ("acme_2", "ACME_2")])
def test_streams_and_buckets_have_their_names(namespace: str, upper: str) -> None:
    names = Namespace(namespace)
    assert names.tasks_stream == f"{upper}_TASKS"
    assert names.later_stream == f"{upper}_LATER"
    assert names.dead_letters_stream == f"{upper}_DLQ"
    assert names.locks_bucket == f"{namespace}_locks"
    assert names.attempts_bucket == f"{namespace}_attempts"
    assert names.results_bucket == f"{namespace}_results"
    assert names.groups_bucket == f"{namespace}_groups"
    assert names.config_bucket == f"{namespace}_config"


@pytest.mark.parametrize("namespace", ["diracx", "acme_2"])
def test_the_nine_queues_have_their_subjects_and_consumers(namespace: str) -> None:
    names = Namespace(namespace)
    pairs = [(priority, size) for priority in Priority for size in Size]
    assert [names.task_subject(*pair) for pair in pairs] == [f"{namespace}.tasks.{p}.{s}" for p, s in QUEUES]
    assert [names.due_subject(*pair) for pair in pairs] == [f"{namespace}.due.{p}.{s}" for p, s in QUEUES]
    assert [names.consumer(*pair) for pair in pairs] == [f"{p}-{s}" for p, s in QUEUES]


def test_the_other_subjects_have_their_names() -> None:
    names = Namespace()
    assert names.delayed_subject("0192f3a4-aa") == "diracx.delayed.0192f3a4-aa"
    assert names.delayed_subject("a.b *>") == "diracx.delayed.a=2Eb=20=2A=3E"
    assert names.dead_letter_subject("lollygag:SyncOwnersTask", 42) == "diracx.dlq.lollygag.SyncOwnersTask.42"
    assert names.dead_letter_subject("no colon", 1) == "diracx.dlq.=.no=20colon.1"
    assert names.inbox_prefix("worker") == "_INBOX_diracx_worker"


@pytest.mark.parametrize("name", ["", "Diracx", "1st", "_a", "a-b", "a.b", "a b", "a\n", "é", "*"])
def test_a_namespace_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="lower case") as caught:
        Namespace(name)
    assert repr(name) in str(caught.value)


@settings(deadline=None)
@given(st.from_regex(r"[a-z][a-z0-9_]*", fullmatch=True), st.from_regex(r"[a-z][a-z0-9_]*", fullmatch=True))
def test_two_namespaces_never_meet(one: str, other: str) -> None:
    def every_name(names: Namespace) -> set[str]:
        return {
            names.tasks_stream,
            names.later_stream,
            names.dead_letters_stream,
            *(
                f"KV_{bucket}"
                for bucket in (
                    names.locks_bucket,
                    names.attempts_bucket,
                    names.results_bucket,
                    names.groups_bucket,
                    names.config_bucket,
                )
            ),
            names.task_subject(Priority.NORMAL, Size.SMALL).split(".")[0],
        }

    assert len(every_name(Namespace(one))) == 9
    assert (one == other) or not every_name(Namespace(one)) & every_name(Namespace(other))


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("", "="),
        ("lhcb", "lhcb"),
        ("Some_name-1", "Some_name-1"),
        ("a.b", "a=2Eb"),
        ("a b", "a=20b"),
        ("*", "=2A"),
        (">", "=3E"),
        ("=", "=3D"),
        ("=3D", "=3D3D"),
        ("/", "=2F"),
        ("%41", "=2541"),
        ("é", "=C3=A9"),
        ("😀", "=F0=9F=98=80"),
        ("\ud800", "=ED=A0=80"),
        ("\r\n\0", "=0D=0A=00"),
    ],
)
def test_a_part_is_escaped_byte_by_byte(text: str, escaped: str) -> None:
    assert escape(text) == escaped
    assert unescaped(escaped) == text


def unescaped(part: str) -> str:
    """The text that `escape` was given, for a part without a digest."""
    return "" if part == "=" else unquote_to_bytes(part.replace("=", "%")).decode("utf-8", "surrogatepass")


@settings(deadline=None)
@given(texts)
@example("\ud83d\ude00")
@example("=h")
def test_an_escaped_part_can_be_reversed(text: str) -> None:
    assert "=h" in escape(text) or unescaped(escape(text)) == text


@settings(deadline=None)
@given(texts | st.text("a.=é", max_size=300))
def test_an_escaped_part_is_one_token_of_any_subject_and_key(text: str) -> None:
    assert re.fullmatch(r"[-_=A-Za-z0-9]{1,200}", escape(text))


@settings(deadline=None)
@given(texts, texts)
@example("\ud83d\ude00", "😀")
@example("", "=")
@example("x" * 201, "x" * 202)
def test_two_parts_never_meet(one: str, other: str) -> None:
    assert (escape(one) == escape(other)) == (one == other)


@settings(deadline=None)
@given(parts, parts)
@example(["a.b", "c"], ["a", "b.c"])
@example(["", ""], [""])
def test_two_keys_never_meet(one: list[str], other: list[str]) -> None:
    assert (lock_key("mutex", *one) == lock_key("mutex", *other)) == (one == other)


def test_a_long_part_keeps_its_head_and_gets_a_digest() -> None:
    assert escape("x" * 200) == "x" * 200
    found = escape("x" * 201)
    digest = "84a0678c90937f5dcf9994d5866668da6b995109c8ad845410559b48a4ecafed"
    assert found == "x" * 100 + "=h" + digest


@settings(deadline=None)
@given(st.text("aé.", min_size=201, max_size=400), st.text("aé.", min_size=201, max_size=400))
def test_two_long_parts_never_meet(one: str, other: str) -> None:
    assert (escape(one) == escape(other)) == (one == other)


@settings(deadline=None)
@given(st.text("aé.=", min_size=201, max_size=300), texts)
def test_a_long_part_meets_no_short_one(long: str, short: str) -> None:
    assert escape(long) != escape(short)
    assert escape(escape(long)) != escape(long)


def test_a_key_takes_parts_of_any_type() -> None:
    assert lock_key("mutex", "task", "lollygag", 7) == "mutex.task.lollygag.7"
    assert lock_key("rate", "job") == "rate.job"


@pytest.mark.parametrize(
    ("name", "split"),
    [("a:B", ("a", "B")), ("a:b:C", ("a:b", "C")), ("B", ("", "B")), (":B", ("", "B")), ("a:", ("a", ""))],
)
def test_a_task_name_splits_at_its_last_colon(name: str, split: tuple[str, str]) -> None:
    assert split_task_name(name) == split


def test_the_subjects_of_an_entry_differ_from_those_of_any_vo() -> None:
    names = Namespace()
    assert names.state_subject("acme:SubmitPilots", "lhcb") == "diracx.state.acme.SubmitPilots.lhcb"
    assert names.state_subject("acme:SubmitPilots", "lhcb", "C.ERN") == "diracx.state.acme.SubmitPilots.lhcb.+C=2EERN"
    assert names.state_subject("acme:Cleanup", None, "A") == "diracx.state.acme.Cleanup.+A"
    assert names.periodic_subject("acme:Cleanup", None, "1", "A") == "diracx.periodic.acme.Cleanup.+A.1"
    assert not names.is_replay(names.state_subject("replay:1", None, "2"))


@settings(deadline=None)
@given(texts, texts)
@example("+A", "A")
def test_no_vo_has_the_token_of_an_entry(vo: str, entry: str) -> None:
    assert escape(vo) != escape_entry(entry)
