"""A text that may become the configuration: what is read of a file, and who writes it."""

from __future__ import annotations

import getpass
import io
import os
import socket

import pytest

from diracx.tasks.cli.commands.config.proposal import NOTES, author, read_text

TEXT = "vos: [lhcb]\n"


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (TEXT, TEXT),
        ("", ""),
        (f"{TEXT}{NOTES}\n# revision 1\n", TEXT),
        (f"{TEXT}{NOTES}", TEXT),
        (f"{TEXT}{NOTES}\n# more\n\n# and more", TEXT),
        (f"{NOTES}\n# revision 1\n", ""),
        (f"{TEXT}\n\n{NOTES}\n", f"{TEXT}\n\n"),
    ],
)
def test_the_comments_of_show_are_left_out(written: str, kept: str) -> None:
    assert read_text(io.StringIO(written)) == kept


@pytest.mark.parametrize("written", [f"{TEXT}{NOTES}\n# more\ntasks: {{}}\n", f"{TEXT}  {NOTES}\n"])
def test_what_somebody_wrote_below_them_or_around_them_counts(written: str) -> None:
    assert read_text(io.StringIO(written)) == written


def test_comments_that_were_shown_before_stay_above_what_was_added_since() -> None:
    older = f"{TEXT}{NOTES}\n# more\ntasks: {{}}\n"
    assert read_text(io.StringIO(f"{older}{NOTES}\n# again\n")) == older


def test_the_author_is_user_and_host_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert author() == f"{getpass.getuser()}@{socket.gethostname()}"
    monkeypatch.setenv("LOGNAME", "a\r\nb\x1b")
    assert author() == f"a\\r b\\x1b@{socket.gethostname()}"

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 1000")

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert author() == f"{os.getuid()}@{socket.gethostname()}"
