"""`diracx-task-run dlq show`."""

from __future__ import annotations

import asyncio

import rich_click as click

from diracx.tasks.cli.commands.dlq.dead_letters import DeadLetters
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.details import json_text, labels_text, print_details, time_text
from diracx.tasks.cli.terminal.output import print_document
from diracx.tasks.plumbing.dead_letters.dead_letter import DeadLetter


def command(*, seq: int, as_json: bool, access: Access) -> None:
    dead_letter = asyncio.run(_read(access, seq))
    if dead_letter is None:
        raise click.UsageError(f"there is no dead letter {seq}; see `diracx-task-run dlq list`")
    if as_json:
        print_document(dead_letter)
    else:
        print_details(_fields(dead_letter), dead_letter.errors)


async def _read(access: Access, seq: int) -> DeadLetter | None:
    async with DeadLetters.open(access) as dead_letters:
        return await dead_letters.reader.get(seq)


def _fields(dead_letter: DeadLetter) -> dict[str, str | None]:
    return {
        "seq": str(dead_letter.seq),
        "task": dead_letter.task,
        "id": dead_letter.id,
        "submitted": time_text(dead_letter.submitted),
        "died": time_text(dead_letter.died),
        "attempts": None if dead_letter.attempts is None else str(dead_letter.attempts),
        "reason": dead_letter.reason,
        "labels": labels_text(dead_letter.labels),
        "args": json_text(dead_letter.args),
    }
