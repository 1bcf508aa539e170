"""A result on the terminal, and the exit code that goes with it."""

from __future__ import annotations

import pytest

from diracx.tasks.cli.terminal.results import report
from diracx.tasks.plumbing.results.record import RemoteError, ResultRecord
from diracx.tasks.plumbing.wire.ending import Status

SUCCEEDED = ResultRecord(id="1", task="acme:Report", status=Status.SUCCEEDED, value={"a": [1.0, None]})
UNKEPT = ResultRecord(id="1", task="acme:Report", status=Status.SUCCEEDED, problem="it is nan")
EXPIRED = ResultRecord(id="1", task="acme:Report", status=Status.EXPIRED, error=RemoteError("TaskExpiredError", "late"))
FAILED = ResultRecord(
    id="1",
    task="acme:Report",
    status=Status.FAILED,
    error=RemoteError("ValueError", "no\x1b[1m", "Traceback\nno\x1b\n"),
)


@pytest.mark.parametrize(
    ("record", "silent", "code", "written", "said"),
    [
        (SUCCEEDED, False, 0, "Result: {'a': [1.0, None]}\n", ""),
        (SUCCEEDED, True, 0, "", ""),
        (UNKEPT, False, 0, "", "warning: acme:Report has succeeded, but its value was not kept: it is nan\n"),
        (EXPIRED, False, 1, "", "error: acme:Report (1) expired: TaskExpiredError: late\n"),
        (FAILED, False, 1, "", "Traceback\nno\\x1b\nerror: acme:Report (1) failed: ValueError: no\\x1b[1m\n"),
        (FAILED, True, 1, "", "error: acme:Report (1) failed: ValueError: no\\x1b[1m\n"),
    ],
)
def test_a_result_is_shown_as_call_shows_it(
    capsys: pytest.CaptureFixture[str], record: ResultRecord, silent: bool, code: int, written: str, said: str
) -> None:
    assert report(record, silent=silent) == code
    assert tuple(capsys.readouterr()) == (written, said)
