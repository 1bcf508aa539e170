"""`scripts/chaos --cluster` in small."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from support.paths import CHAOS, TESTS

OPTIONS = "--cluster --tasks 300 --workers 2 --kill-workers 1 --kill-server 1 --seconds 15 --seed 7 --json"


def test_a_small_run_in_which_a_leader_is_killed_loses_nothing_and_no_submission_fails() -> None:
    done = subprocess.run(
        [sys.executable, str(CHAOS), *OPTIONS.split()],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ledger = json.loads(done.stdout)
    assert [each["why"] for each in ledger["outages"]] == ["DIRACX_LATER"]
    assert ledger["lateness_of_urgent"]["count"] > 0
    assert ledger["holders_of_locks"] > 0
    assert ledger["lost"] == ledger["unexplained"] == ledger["problems"] == []
