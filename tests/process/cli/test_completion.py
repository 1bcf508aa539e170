"""TAB, as a shell asks for it, and in a real bash."""

from __future__ import annotations

import pytest

from support.command_line import CommandLine
from support.paths import CONSOLE_SCRIPT
from support.terminal import on_terminal


def completed(command_line: CommandLine, *words: str) -> list[str]:
    """The completions that bash gets for the last of these words."""
    done = command_line(
        _DIRACX_TASK_RUN_COMPLETE="bash_complete",
        COMP_WORDS=" ".join(["diracx-task-run", *words]),
        COMP_CWORD=str(len(words)),
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [line.removeprefix("plain,") for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("words", "answers"),
    [
        (["st"], ["status"]),
        (["dlq", "p"], ["purge"]),
        (["worker", "--worker-size", "m"], ["medium"]),
        (["call", "lollygag:SyncO"], ["lollygag:SyncOwnersTask"]),
        (["call", "lollygag", ":", "SyncO"], ["SyncOwnersTask"]),
        (["schedule", "run", "lollygag", ":", "OwnerC"], ["OwnerCleanupTask"]),
        (["dlq", "list", "--task", "lollygag", ":", "Ty"], ["Typed"]),
        (["call", "lollygag", ":", "SyncOwnersTask", "--a"], ["--args"]),
    ],
)
def test_words_are_completed(extension: CommandLine, words: list[str], answers: list[str]) -> None:
    assert completed(extension, *words) == answers


def test_behind_the_colon_stand_all_tasks_of_the_category(extension: CommandLine) -> None:
    assert {"SyncOwnersTask", "Typed", "Waits"} <= set(completed(extension, "submit", "lollygag", ":"))


def test_tab_in_bash_completes_commands_options_and_tasks(extension: CommandLine) -> None:
    path = f"{CONSOLE_SCRIPT.parent}:{extension.environment['PATH']}"
    with on_terminal(extension, "--norc", "--noprofile", program="bash", columns=120, PATH=path, PS1="$ ") as bash:
        bash.read_until("$ ")
        bash.type('eval "$(_DIRACX_TASK_RUN_COMPLETE=bash_source diracx-task-run)"; echo rea""dy\n')
        bash.read_until("ready\n")
        bash.type("diracx-task-run sub\t")
        bash.read_until("submit ")
        bash.type("lollygag:SyncO\t")
        bash.read_until("lollygag:SyncOwnersTask ")
        bash.type("--arg\t")
        bash.read_until("--args ")
        bash.type("'[5]'\n")
        bash.read_until("Expected `str`, got `int` - at `$.owner_name`")
