"""Whatever a file holds, it is read or refused in one line."""

from __future__ import annotations

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diracx.tasks.plumbing.overrides.checks import problems
from diracx.tasks.plumbing.overrides.configuration import Configuration, ConfigurationError
from diracx.tasks.plumbing.overrides.layouts import parse
from diracx.tasks.plumbing.registry import TaskRegistry

TOP = st.sampled_from(["vos", "tasks", "limits", "vo_limits", "common", "vo-overrides", "vo_overrides"])
WORDS = """
    enabled schedule rate_limit rate_window_seconds concurrency_limit entries periodic vos limit window_seconds
    RateLimiter ConcurrencyLimiter cron interval rrule timezone class arg args name interval_seconds periodic-
    tasks limits Task task Job default X a:X lhcb :
"""
KEYS = TOP | st.sampled_from(WORDS.split()) | st.text(max_size=3)
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-1, 10**20)
    | st.floats()
    | st.text(max_size=5)
    | st.dates()
    | st.binary(max_size=3)
    | st.sampled_from(["@daily", "* * * * *", "60 * * * *", "FREQ=DAILY", "UTC", "CronSchedule", "IntervalSeconds"])
)
PARTS = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=25,
)


def read_or_refused(text: str) -> Configuration:
    """The configuration of a text, or one without settings if the text is refused."""
    refusal, found = "", Configuration()
    try:
        found = parse(text)
    except ConfigurationError as error:
        refusal = str(error)
    assert "\n" not in refusal
    return found


@settings(max_examples=300)
@given(st.dictionaries(TOP, PARTS, max_size=3) | PARTS)
@example({"tasks": {"X": {"schedule": {"interval": 10**20}}}})
@example({"tasks": {"X": {"schedule": {"interval": float("nan")}}}})
@example({"tasks": {"X": {"rate_limit": {"limit": 10**20, "window_seconds": float("inf")}}}})
@example({"tasks": {"X": {"entries": {"a": {"args": {"n": 10**20}}}}}})
@example({"common": {"X": {"periodic": {"interval_seconds": 10**20}}}})
def test_a_file_is_read_or_refused_in_one_line(written: object) -> None:
    assert not problems(read_or_refused(yaml.safe_dump(written)), TaskRegistry()).errors


@settings(max_examples=300)
@given(st.text(st.sampled_from("abc:{}[]&*<-|> \n\t'\"#%!?,~0.")))
def test_a_text_is_read_or_refused_in_one_line(text: str) -> None:
    read_or_refused(text)
