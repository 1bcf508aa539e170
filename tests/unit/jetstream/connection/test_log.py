"""The lines of a connection."""

from __future__ import annotations

import pytest

from diracx.tasks.plumbing.jetstream.connection.log import ConnectionLog
from support.clock import ManualClock


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (TimeoutError(), "no server answers in time"),
        (TimeoutError(110, "Connection timed out"), "Connection timed out"),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
    ],
)
def test_the_line_of_an_error_has_words(error: Exception, line: str, caplog: pytest.LogCaptureFixture) -> None:
    ConnectionLog(str, ManualClock(1_000.0)).error(error)
    assert caplog.messages == [line]
