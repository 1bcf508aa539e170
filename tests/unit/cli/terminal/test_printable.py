"""Text that others chose, escaped for terminals and logs."""

from __future__ import annotations

import io
import json
import logging
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diracx.tasks.cli.logs import JsonFormatter, TextFormatter
from diracx.tasks.cli.terminal.json_text import printable_json
from diracx.tasks.cli.terminal.output import note, print_document, print_text, say
from diracx.tasks.cli.terminal.printable import one_line, printable
from diracx.tasks.cli.terminal.tables import print_table

CONTROLS = (
    "\x00\x07\x08\r\t\x1b[31m\x7f\x85\x9b\u200b\u2028\u202e\u2066\ufeff\ud800\udcff\U000e0001[red]:smile:[/]é語😀\n"
)

anything = st.text(st.characters(), max_size=40) | st.text(CONTROLS, max_size=40)
encodable = anything.map(lambda text: text.encode("utf-8", "replace").decode())


def is_harmless(text: str) -> bool:
    """Whether no character but the line break is a control character, turns the text, or has no width."""
    return text.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 語 😀 [red]x[/] :smile:", "plain é 語 😀 [red]x[/] :smile:"),
        ("\x1b[31m\x00\r\x9b", r"\x1b[31m\x00\r\x9b"),
        ("\u202eevil\u2066", r"\u202eevil\u2066"),
        ("\udcff", r"\udcff"),
        ("a\tb\nc", "a\\tb\nc"),
    ],
)
def test_what_controls_a_terminal_is_escaped_and_the_rest_is_shown_as_it_is(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert one_line(text) == shown.replace("\n", "\\n")


@given(anything)
@example(CONTROLS)
def test_no_text_gets_through(text: str) -> None:
    assert is_harmless(printable(text))
    assert printable(text).count("\n") == text.count("\n")
    assert one_line(text).isprintable()


@given(
    encodable,
    st.sampled_from(["utf-8", "ascii", "latin-1", "cp1252", "utf-16", "shift_jis"]),
    st.sampled_from([None, 2]),
)
@example("\x7f\x9b\u202e😀", "latin-1", 2)
def test_json_is_the_same_value_in_every_encoding(text: str, encoding: str, indent: int | None) -> None:
    value = {"text": text, "list": [text, 1.5, None]}
    document = printable_json(value, encoding, indent)
    assert is_harmless(document)
    assert json.loads(document.encode(encoding).decode(encoding)) == value


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def through_each_sink(text: str, *, terminal: bool) -> str:
    out: io.StringIO = Terminal() if terminal else io.StringIO()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.stdout", out)
        patched.setattr("sys.stderr", out)
        # A terminal without colours: whatever escape sequence is there, came from the text.
        patched.setenv("TERM", "dumb")
        say(text)
        note(text)
        print_text(text)
        print_table(["key", "text"], [[text, text], ["b", None]])
        print_document({"text": text.encode("utf-8", "replace").decode()})
    return out.getvalue()


@given(anything, st.booleans())
@example(CONTROLS, True)
@example("[/]", True)
def test_no_text_gets_through_a_sink(text: str, terminal: bool) -> None:
    assert is_harmless(through_each_sink(text, terminal=terminal))


def test_markup_and_emoji_codes_are_shown_as_they_are_written() -> None:
    for terminal in (True, False):
        assert through_each_sink("[red]a[/] :smile: [/b]", terminal=terminal).count("[red]a[/] :smile: [/b]") == 6


def record(text: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("acme", logging.ERROR, __file__, 1, "%s", (text,), None)
    made.exc_text = f"Traceback:\n{text}"
    vars(made).update(extra)
    return made


@given(anything)
@example(CONTROLS)
def test_no_text_gets_through_the_log(text: str) -> None:
    lines = TextFormatter("%(levelname)s %(message)s").format(record(text, owner=text))
    assert is_harmless(lines)
    assert lines.count("\n") == text.count("\n") + 2, "only a traceback has lines of its own"
    for encoding in ("utf-8", "ascii"):
        line = JsonFormatter(encoding).format(record(text, owner=text))
        assert line.isprintable()
        json.loads(line.encode(encoding))


class Unprintable:
    def __repr__(self) -> str:
        raise KeyboardInterrupt


@pytest.mark.parametrize("value", [Unprintable(), {"deep": [Unprintable()]}, 1 << 70, "\udcff", {1, 2}])
def test_a_field_of_any_value_loses_no_line(value: Any) -> None:
    assert "lost?" in TextFormatter("%(message)s").format(record("lost?", owner=value))
    assert json.loads(JsonFormatter().format(record("lost?", owner=value)))["message"] == "lost?"


def test_times_and_numbers_stay_values_of_json() -> None:
    line = json.loads(JsonFormatter().format(record("x", at=datetime(2026, 1, 1, tzinfo=UTC), count=3)))
    assert (line["at"], line["count"]) == ("2026-01-01T00:00:00Z", 3)
