"""The values and errors of children as they are stored."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

import msgspec

from diracx.tasks.plumbing.exceptions import shown
from diracx.tasks.plumbing.groups.records import StoredOutcome
from diracx.tasks.plumbing.results.record import RETURN_LESS, value_json
from diracx.tasks.plumbing.wire.ending import Ending, OutcomeError

logger = logging.getLogger("diracx.tasks.worker")

_NO_OUTCOMES: Final = b'{"outcomes":[]}'


def outcome_of(index: int, ending: Ending, largest: int) -> bytes | None:
    """The JSON of the `StoredOutcome` of a child: its error, or its value.

    Args:
        index: Of the child in its group.
        largest: How many bytes fit into a message.

    Returns:
        None if the value cannot be kept, which is logged: the child has succeeded all the same.
    """
    if ending.error is not None:
        error = OutcomeError(ending.error.type, ending.error.message)
        return msgspec.json.encode(StoredOutcome(index, error=error))
    try:
        outcome = msgspec.json.encode(StoredOutcome(index, value=msgspec.Raw(value_json(ending.value))))
        if len(outcome) + len(_NO_OUTCOMES) <= largest:
            return outcome
        problem = f"it has {len(outcome)} bytes as JSON, and at most {largest} fit; {RETURN_LESS}"
    except ValueError as error:
        problem = str(error)
    logger.warning(
        "%s %s succeeded, but the callback of its group will not see its value: %s",
        *(ending.task, shown(ending.id), problem),
    )
    return None


def outcomes_records(number: int, outcomes: Iterable[tuple[int, bytes]], largest: int) -> list[tuple[int, int, bytes]]:
    """`OutcomesRecord`s that fit into messages.

    Args:
        number: Of the part.
        outcomes: By index, ascending.
        largest: How many bytes fit into a message.

    Returns:
        Of each record the number of the part, the lowest index in it, and its JSON.
    """
    records: list[tuple[int, list[bytes]]] = []
    size = 0
    for index, outcome in outcomes:
        size += len(outcome) + 1
        if not records or size + len(_NO_OUTCOMES) > largest:
            records.append((index, []))
            size = len(outcome) + 1
        records[-1][1].append(outcome)
    return [(number, first, b'{"outcomes":[%b]}' % b",".join(together)) for first, together in records]
