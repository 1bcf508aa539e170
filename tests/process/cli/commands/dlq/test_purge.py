"""`dlq purge`, and its selection, which `dlq replay` shares."""

from __future__ import annotations

import pytest

from support.command_line import CommandLine
from support.dead_letters import HEADERS, DeadLetterBox

NAME = HEADERS["Task-Name"]
OTHER = HEADERS | {"Task-Name": "lollygag:Other", "Task-Id": "other"}


async def test_purge_asks_and_removes_all_traces_of_a_task(with_server: CommandLine, box: DeadLetterBox) -> None:
    await box.add(sequence=7)
    await box.advise(7, "MSG_TERMINATED")
    given_up = await box.put()
    await box.advise(given_up)
    await box.add(headers=OTHER)
    unasked = with_server("dlq", "purge", "--all")
    assert (unasked.returncode, unasked.stdout) == (2, "")
    assert "standard input gives no answer, and nothing was purged; use --yes" in unasked.stderr
    refused = with_server("dlq", "purge", "--all", typed="n\n")
    assert (refused.returncode, refused.stdout) == (0, "")
    assert "Purge 3 dead letters for good? [y/N]" in refused.stderr
    assert "nothing was purged" in refused.stderr
    assert await box.letters() == 4
    agreed = with_server("dlq", "purge", "--task", NAME, typed="y\n")
    assert (agreed.returncode, agreed.stdout) == (0, "purged 2 dead letters\n")
    assert await box.task(given_up) is None
    done = with_server("dlq", "purge", "4", "5", "--yes")
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "purged 1 dead letter\n",
        "error: there is no dead letter 5\n",
    )
    assert await box.letters() == 0


@pytest.mark.parametrize(("command", "arguments"), [("replay", ()), ("purge", ("1", "--all"))])
def test_the_selection_must_be_given_in_exactly_one_way(
    extension: CommandLine, command: str, arguments: tuple[str, ...]
) -> None:
    done = extension("dlq", command, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "give either SEQ..., or --all, or one or more of --task NAME" in " ".join(done.stderr.split())


def test_where_nothing_is_set_up_there_is_nothing_to_replay_or_purge(with_server: CommandLine, namespace: str) -> None:
    for command, said in (("replay", "replayed 0 tasks\n"), ("purge", "purged 0 dead letters\n")):
        done = with_server("dlq", command, "--all")
        assert (done.returncode, done.stdout) == (0, said)
        assert f"stream {namespace.upper()}_DLQ is missing on this server" in done.stderr


async def test_purge_and_replay_take_filters_and_every_name_of_a_task(
    with_server: CommandLine, box: DeadLetterBox
) -> None:
    for headers in (HEADERS, OTHER, HEADERS):
        await box.add(headers=headers)
    await box.advise(7)
    await box.advise(7)
    none, purged, again, replayed, refused = with_server.each(
        [
            ("dlq", "purge", "--reason", "no such reason", "--yes"),
            ("dlq", "purge", "--task", NAME, "--reason", "over", "--since", "1h", "--yes"),
            ("dlq", "purge", "5", "--yes"),
            ("dlq", "replay", "--since", "1h", "--reason", "OVER"),
            ("dlq", "purge", "--all", "--reason", "over", "--yes"),
        ]
    )
    assert (none.returncode, none.stdout) == (0, "purged 0 dead letters\n")
    assert purged.stdout == "purged 2 dead letters\n"
    # `dlq list` may name a task by a later advisory than the first.
    assert (again.returncode, again.stdout, again.stderr) == (0, "purged 1 dead letter\n", "")
    assert (replayed.returncode, replayed.stdout) == (0, "replayed 1 task\n")
    assert refused.returncode == 2
    assert await box.letters() == 0
