"""The names on the server. They are a promise: operators, permissions and other languages rely on them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.scheduler.state import ScheduleKey, occurrence_id
from diracx.tasks.plumbing.wire.names import (
    MAX_LOCK_KEY_CHARS,
    MAX_TASK_NAME_CHARS,
    Namespace,
    check_task_name,
    escape,
    escape_entry,
    lock_key,
    split_task_name,
)

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
    assert names.history_stream == f"{upper}_HISTORY"
    assert names.locks_bucket == f"{namespace}_locks"
    assert names.attempts_bucket == f"{namespace}_attempts"
    assert names.results_bucket == f"{namespace}_results"
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


@pytest.mark.parametrize("name", ["a" * 65, "a" * 5_000])
def test_a_namespace_that_is_too_long_for_a_stream_or_a_line_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"has {len(name)} characters, at most 64 are allowed") as caught:
        Namespace(name)
    assert len(str(caught.value)) < 200
    assert Namespace("a" * 64)


@pytest.mark.parametrize("name", ["sys", "acme_producers", "_".join(("acme", "observers"))])
def test_a_namespace_whose_account_is_that_of_another_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"namespace '{name}' would share its account"):
        Namespace(name)


NAMESPACES = st.from_regex(r"[a-z][a-z0-9_]{0,63}", fullmatch=True).filter(
    lambda name: name != "sys" and not name.endswith(("_producers", "_observers"))
)


@settings(deadline=None)
@given(NAMESPACES, NAMESPACES)
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
                    names.config_bucket,
                )
            ),
            names.task_subject(Priority.NORMAL, Size.SMALL).split(".")[0],
            # The accounts, see `operations.accounts`.
            *(f"account {names.name.upper()}{suffix}" for suffix in ("", "_PRODUCERS", "_OBSERVERS")),
        }

    assert len(every_name(Namespace(one))) == 11
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
    assert names.replayed(names.state_subject("replay:1", None, "2")) is None
    assert names.replayed(names.replay_subject(7, 1_000)) == 7


@settings(deadline=None)
@given(texts, texts)
@example("+A", "A")
def test_no_vo_has_the_token_of_an_entry(vo: str, entry: str) -> None:
    assert escape(vo) != escape_entry(entry)


ODD_NAMES = ["", ":", "a:", ":A", "A", "a:b:C", "a:A b", "a b:A", "a:A*", "a:>", "a:$A", "a:+A", "a:=A", "a:A/B"]
ODD_NAMES += ["a:.A", ".a:A", "a:-A", "+a:A", "*:A", "a:Größe", "é:A", "a:A\n", "a:A\0", "a:A\r\nTask-Id: 1"]
ODD_NAMES += ["a:1A", "a:\ud800"]
ODD_NAMES += ["a:" + "A" * (MAX_TASK_NAME_CHARS - 1), "a" * 300 + ":A", "a:" + "A" * 5_000]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_that_a_task_cannot_have_everywhere_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"write <category>:<ClassName> in ASCII|characters, at most 200"):
        check_task_name(name)


TASK_NAMES = st.from_regex(r"[A-Za-z0-9_][\w.-]{0,20}:[A-Za-z_][\w.-]{0,20}", fullmatch=True).filter(str.isascii)
VOS = st.none() | st.text(st.characters(), min_size=1, max_size=300)
ENTRIES = st.text(st.characters(), max_size=300)
SCHEDULES = st.tuples(TASK_NAMES, VOS, ENTRIES)
HEADER = re.compile(r"[!-~]+")
SUBJECT = re.compile(r"[-+=_A-Za-z0-9]+(\.[-+=_A-Za-z0-9]+)*")


@settings(deadline=None)
@given(SCHEDULES, SCHEDULES)
@example(("a:B", "+c", ""), ("a:B", None, "c"))
@example(("a:B", "x", "y"), ("a:B", "x.+y", ""))
@example(("a.b:C", None, ""), ("a:b.C", None, ""))
@example(("replay:b", "1", ""), ("replay:b", None, "1"))
def test_what_a_task_a_vo_and_an_entry_become_is_legal_short_and_theirs_alone(
    one: tuple[str, str | None, str], other: tuple[str, str | None, str]
) -> None:
    names, due = Namespace("a" * 64), datetime(2026, 12, 1, 6, tzinfo=UTC)

    def become(task: str, vo: str | None, entry: str) -> list[str]:
        check_task_name(task)
        subjects = [names.state_subject(task, vo, entry), names.periodic_subject(task, vo, "20261201T060000Z", entry)]
        identity = occurrence_id(ScheduleKey(task, vo or "", entry), due)
        assert all(SUBJECT.fullmatch(subject) and len(subject) < 1_000 for subject in subjects)
        assert HEADER.fullmatch(identity), "a header is one line of ASCII"
        assert len(identity) < 1_000
        assert names.replayed(subjects[0]) is None
        return [*subjects, identity]

    for first, second in zip(become(*one), become(*other), strict=True):
        assert (first == second) == (one == other)


@settings(deadline=None)
@given(TASK_NAMES, TASK_NAMES, st.integers(1), st.integers(1))
@example("a.b:C", "a:b.C", 1, 1)
def test_two_dead_letters_never_meet(one: str, other: str, first: int, second: int) -> None:
    subjects = [Namespace().dead_letter_subject(*each) for each in ((one, first), (other, second))]
    assert all(re.fullmatch(r"diracx\.dlq(\.[-=\w]+){3}", subject, re.ASCII) for subject in subjects)
    assert (subjects[0] == subjects[1]) == ((one, first) == (other, second))


@settings(deadline=None)
@given(st.lists(st.text(st.characters(), max_size=300), min_size=1, max_size=30))
@example(["x" * 200] * 14)
@example(["x" * 200] * 15)
def test_a_lock_key_is_legal_and_leaves_room_in_the_servers_line_or_is_refused(parts: list[str]) -> None:
    if len("mutex") + sum(len(escape(part)) + 1 for part in parts) > MAX_LOCK_KEY_CHARS:
        with pytest.raises(ValueError, match="characters, at most 3000 are allowed") as caught:
            lock_key("mutex", *parts)
        assert len(str(caught.value)) < 250
        return
    key = lock_key("mutex", *parts)
    assert re.fullmatch(r"[-_=A-Za-z0-9.]+", key)
    # The namespace, a limiter for one VO, a slot or reader, the reply subject and the sizes.
    longest = f"$KV.{'a' * 64}_locks.{key}./vo.{'x' * 200}./readers.{'x' * 32} _INBOX_{'a' * 64}_scheduler.{'x' * 40}"
    assert len(longest) + 50 < 4_096


class Named:
    def __repr__(self) -> str:
        return "named"


def test_a_part_is_what_has_a_text_of_its_own() -> None:
    assert lock_key("mutex", 1, 1.5, True, Size.SMALL, Named()) == "mutex.1.1=2E5.True.small.named"


@pytest.mark.parametrize(
    ("part", "fix"),
    [
        (None, "is None, which all objects without an id would share; write its id"),
        (b"a", r"is bytes; write text, e\.g\. part\.decode\(\)"),
        (bytearray(b"a"), "is bytearray; write text"),
        (["a"], r"is a list; write each element as a part, e\.g\. \*parts"),
        (("a", "b"), "is a tuple; write each element"),
        ({"a"}, "is a set; write each element"),
        ({"a": 1}, "is a dict; write each element"),
        (object(), "is a object, whose text differs in each process; write its id"),
    ],
)
def test_a_part_without_a_text_of_its_own_is_refused(part: object, fix: str) -> None:
    with pytest.raises(ValueError, match=f"a part of a lock's key {fix}"):
        lock_key("mutex", "job", part)


@pytest.mark.parametrize("kind", ["", "mutex.job", "my licence", "*", ">", "é", "a\n", "k" * 51])
def test_a_kind_that_is_no_token_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="must be 1 to 50 ASCII letters"):
        lock_key(kind, "job")
