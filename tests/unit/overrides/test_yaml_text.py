"""The YAML of a configuration: what is refused before its meaning is looked at."""

from __future__ import annotations

import pytest

from diracx.tasks.plumbing.overrides.configuration import ConfigurationError
from diracx.tasks.plumbing.overrides.yaml_text import MAX_VALUES, read_yaml


def test_keys_are_the_texts_that_were_written() -> None:
    text = "{12345: 1, '007': 2, on: 3, 2026-01-01: 4, 1_0: 5, ~: 6, =: 7}"
    assert read_yaml(text) == {"12345": 1, "007": 2, "on": 3, "2026-01-01": 4, "1_0": 5, "~": 6, "=": 7}


def test_aliases_and_merges_work() -> None:
    text = """
    base: &base {limit: 1, window: &n 5}
    first: {<<: *base, limit: 2}
    again: {<<: [*base, {other: 3}], limit: 4}
    *n : *n
    """
    assert read_yaml(text) == {
        "base": {"limit": 1, "window": 5},
        "first": {"limit": 2, "window": 5},
        "again": {"limit": 4, "window": 5, "other": 3},
        "5": 5,
    }


MULTIPLIED = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "\n".join(
    f"{name}: &{name} [{', '.join([f'*{below}'] * 10)}]" for below, name in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the configuration is empty; write `{}`"),
        ("# nothing\n", "the configuration is empty"),
        ("---\n~\n", "the configuration is empty"),
        (" \n", "the configuration is empty"),
        ("a: 1\nb:\n  c: 1\n  d: 2\n  'c': 3", r"b\.c: the key stands twice, on lines 3 and 5; remove one$"),
        ("a: 1\na: 2", "a: the key stands twice, on lines 1 and 2"),
        ("{12345: 1, '12345': 2}", "12345: the key stands twice, on lines 1 and 1"),
        ("a: [{b: {c: 1, c: 2}}]", r"a\[0\]\.b\.c: the key stands twice"),
        ("[1, 2]: 3", r"the configuration: a key must be a text \(line 1\)"),
        ("a:\n  {b: 1}: 3", r"a: a key must be a text \(line 2\)"),
        ('a: {"b\\nc": 1}', r"a: the key 'b\\nc' has a character that cannot be printed \(line 1\)"),
        ("a: &a\n  b: *a", r"a\.b: the value contains itself through an alias \(line 1\)"),
        (MULTIPLIED, rf"f: more than {MAX_VALUES} values, counted with their aliases \(line 6\)"),
        ("vos: [", "the configuration is not YAML: line 2, column 1: did not find"),
        ("a: 1\nb: 2: 3", "the configuration is not YAML: line 2, column 5: mapping values are not allowed"),
        ("a: 1\n---\nb: 2", "the configuration is not YAML: line 2, column 1: but found another document"),
        ("vos: 2026-13-45", "the configuration is not YAML: month must be in 1..12"),
        ("a: !!python/object:os.system x", "the configuration is not YAML: line 1, column 4: could not determine"),
        (b"a: \xff", "the configuration is not YAML: "),
        ("a: \x00", "the configuration is not YAML: "),
        ("[" * 2000, "the configuration is not YAML: line 1, column 1001: exceeded maximum nesting depth"),
        ("[" * 990 + "]" * 990, "the configuration is nested too deeply"),
    ],
)
def test_what_yaml_would_let_pass_is_refused_in_one_line(text: str | bytes, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{message}") as refused:
        read_yaml(text)
    assert "\n" not in str(refused.value)
