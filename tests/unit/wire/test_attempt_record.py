"""The attempt record as the bucket stores it."""

from __future__ import annotations

import msgspec

from diracx.tasks.plumbing.wire.attempt_record import AttemptRecord


def test_an_execution_that_began_and_whose_end_is_not_written_is_a_crash() -> None:
    assert AttemptRecord(1).crashes == 0
    assert AttemptRecord(1, unended=("a", "b"), failed=2).crashes == 2


def test_a_record_of_another_version_is_read_with_defaults_for_missing_fields_and_without_unknown_ones() -> None:
    assert msgspec.json.decode(b'{"stored_ns":1,"failed":2,"newer":[]}', type=AttemptRecord) == AttemptRecord(
        1, failed=2, deliveries=0
    )
