"""Bad usage and its errors; the list of tasks; `--help`."""

from __future__ import annotations

import json
import subprocess
import sys

from support.command_line import CommandLine

IN_FIELDS = (
    "call",
    "lollygag:Typed",
    "--args",
    '["2026-05-01T00:00:00Z", "PT90S", "6fa459ea-ee8a-3ca4-894e-db77e160355e"]',
    "--kwargs",
)


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Its lines on standard error. Other tasks that are broken are of no concern here."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    return done.stderr.splitlines()


def test_arguments_are_converted_to_the_types_of_their_fields(with_server: CommandLine) -> None:
    done = with_server(*IN_FIELDS, '{"tags": [1, 2]}')
    assert (done.returncode, done.stdout) == (0, "Result: 2026 90 UUID [1, 2]\n"), done.stderr


BAD_USAGE: list[tuple[tuple[str, ...], list[str]]] = [
    ((*IN_FIELDS, '{"tags": [1, "x"]}'), ["lollygag:Typed", "Expected `int`, got `str`", "`$.tags[1]`"]),
    ((*IN_FIELDS, '{"tag": []}'), ["no field 'tag'", "did you mean tags?"]),
    ((*IN_FIELDS, '{"key": 1}'), ["key is given twice"]),
    ((*IN_FIELDS, "[]"), ["--kwargs", "it must be an object"]),
    (("call", "lollygag:Dies"), ["missing required field `why`"]),
    (("call", "lollygag:Dies", "--args", '["a", "b"]'), ["takes 1 positional arguments (why), got 2"]),
    (("call", "lollygag:Dies", "--args", "[alice]"), ["--args", "it must be JSON, a list"]),
    (("call", "lollygag:Dies", "--args", "[" * 5000), ["--args"]),
    (("call", "lollygag:Dies", "--args", ""), ["--args", "it must be JSON, a list"]),
    (("call", "lollygag:Dies", "--args", "[NaN]"), ["--args", "it must be JSON, a list"]),
    (("call", "lollygag:Dies", "--args", '["a"]', "--args", '["b"]'), ["--args is given 2 times"]),
    (("call", "lollygag:Dies", "--args", '["\udcff"]'), ["--args", "it is not UTF-8"]),
    (("call", "lollygag:Dies", "--kwargs", '{"why": "a", "why": "b"}'), ["--kwargs", "the key 'why' stands twice"]),
    ((*IN_FIELDS, '{"tags": [{"a": 1, "a": 2}]}'), ["--kwargs", "the key 'a' stands twice"]),
    (("submit", "lollygag:Dies", "--args", '["x"]', "--nats-url", ""), ["--nats-url", "it is empty"]),
    (("submit", "lollygag:Dies", "--args", '["x"]', "--creds", ""), ["--creds", "it is empty"]),
    (("submit", "lollygag:Retried", "--label", "a=1", "--label", "a=2"), ["--label", "'a' is given twice"]),
    (("submit", "lollygag:Retried", "--delay", "nan"), ["--delay", "nan"]),
    (("submit", "lollygag:Retried", "--delay", "inf"), ["--delay", "inf"]),
    (("schedule", "run", "lollygag:OwnerCleanupTask", "--vo", ""), ["does not run per VO"]),
    (("schedule", "list", "--vo", ""), ["--vo", "is empty"]),
    (("schedule", "list", "--vo", "a\tb"), ["--vo", r"the name 'a\tb' has a character that cannot be printed"]),
    (("cancel", ""), ["ID", "it is empty"]),
    (("status", "--watch", "--interval", "0"), ["--interval", "0 must be 0.01 or more"]),
    (("worker", "--worker-size", "small", "--max-concurrent-tasks", "0"), ["0 must be from 1 to 100000"]),
    (("worker", "--worker-size", "small", "--max-concurrent-tasks", "9" * 5000), ["is not a whole number"]),
    (("worker", "--worker-size", "small", "--grace", "-1"), ["--grace", "-1"]),
    (("worker", "--worker-size", "small", "--worker-size", "large"), ["--worker-size is given 2 times"]),
    (("submit", "lollygag:Dies", "--args", "[1]"), ["Expected `str`, got `int`", "`$.why`"]),
    (("submit", "lollygag:Retried", "--at", "2026-05-01T00:00:00"), ["--at", "has no time zone"]),
    (("submit", "lollygag:Retried", "--at", "tomorrow"), ["--at", "'tomorrow' is not a time"]),
    (("submit", "lollygag:Retried", "--at", "2300-01-01T00:00:00Z"), ["--at", "the server holds nothing beyond 2262-"]),
    (("submit", "lollygag:Retried", "--delay", "-1"), ["--delay", "-1"]),
    (("submit", "lollygag:Retried", "--delay", "1", "--at", "2026-05-01T00:00:00Z"), ["exclude each other"]),
    (("submit", "lollygag:Retried", "--label", "urgent"), ["--label", "'urgent' is not NAME=VALUE"]),
    (("submit", "lollygag:Retried", "--namespace", "Dirac.X"), ["namespace 'Dirac.X' must be lower case"]),
    (("submit", "lollygag:Retried", "--nats-url", "http://me:secret@host"), ["http://***@host", "scheme"]),
    (("submit", "lollygag:Retried", "--creds", "/nowhere.creds"), ["creds: there is no file /nowhere.creds"]),
    (("submit", "lollygag:Retried", "--namespace", "a" * 5_000), ["has 5000 characters, at most 64 are allowed"]),
    (("setup", "--namespace", "a_producers", "--export", "x"), ["namespace 'a_producers' would share its account"]),
    (("scheduler", "--vo", ""), ["--vo", "the name of a VO is empty"]),
    (("scheduler", "--vo", "a\nb"), ["--vo", r"the name 'a\nb' has a character that cannot be printed"]),
    (("dlq", "show", "9" * 30), ["must be from 1 to 18446744073709551615"]),
    (("dlq", "replay", "9" * 30), ["must be from 1 to 18446744073709551615"]),
    (("dlq", "purge", "9" * 30), ["must be from 1 to 18446744073709551615"]),
    (("config", "rollback", "9" * 30), ["must be from 1 to 18446744073709551615"]),
    (("call", "lollygag:Gone"), ["lollygag:Gone (lollygag_tasks) cannot be loaded", "ModuleNotFoundError"]),
    (("call", "lollygag:NoDataclass"), ["is no dataclass"]),
    (("call", "lollygag:Unpreparable"), ["parameter 'database'"]),
    (("worker", "--worker-size", "huge"), ["--worker-size", "'huge'"]),
    (("worker",), ["--worker-size", "diracx-task-run worker --help"]),
    (("wroker",), ["No such command 'wroker'", "worker"]),
]


def test_bad_usage_is_one_line_on_standard_error(extension: CommandLine) -> None:
    for (_, words), done in zip(BAD_USAGE, extension.each(each for each, _ in BAD_USAGE), strict=True):
        (line,) = errors(done)
        assert all(word in line for word in words), line
        assert "secret" not in line
        assert len(line) < 500


def test_an_unknown_task_is_refused_with_near_names_and_the_installed_tasks(extension: CommandLine) -> None:
    for command in ("call", "submit"):
        first, second, *names = errors(extension(command, "lollygag:SyncOwnerTask"))
        assert "unknown task 'lollygag:SyncOwnerTask'; did you mean lollygag:SyncOwnersTask" in first
        assert second == "installed tasks:"
        assert "  lollygag:SyncOwnersTask" in names


def test_without_installed_tasks_an_unknown_task_is_refused_with_the_way_to_install_some(bare: CommandLine) -> None:
    bare.environment["PYTHONPATH"] = ""
    # The repository's own environment may have tasks installed; an isolated look at entry points has none.
    done = subprocess.run(
        [sys.executable, "-c", NOTHING_INSTALLED, "call", "nonexistent:Task"],
        env=bare.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    first, second = errors(done)
    assert first == "error: unknown task 'nonexistent:Task'"
    assert '[project.entry-points."diracx.tasks.<category>"]' in second


NOTHING_INSTALLED = """
import importlib.metadata as metadata
metadata.entry_points = lambda: metadata.EntryPoints()
metadata.EntryPoints.groups = property(lambda self: set())
from diracx.tasks.cli import main
main()
"""


def test_no_server_is_exit_69_and_a_line(extension: CommandLine) -> None:
    commands = [
        ("submit", "lollygag:Retried"),
        ("worker", "--worker-size", "small", "--burst"),
        ("dlq", "list", "--json"),
        ("setup",),
    ]
    for done in extension.each(commands, DIRACX_TASKS_USER="me", DIRACX_TASKS_PASSWORD="secret"):
        assert (done.returncode, done.stdout) == (69, "")
        last = done.stderr.splitlines()[-1]
        assert last.startswith("error: cannot connect to nats://127.0.0.1:1: connection refused")
        assert "Traceback" not in done.stderr
        assert "secret" not in done.stderr


def test_tasks_lists_the_installed_tasks_as_one_document(extension: CommandLine) -> None:
    tasks = {task["name"]: task for task in extension.json("tasks") if task["name"].startswith("lollygag:")}
    assert tasks["lollygag:SyncOwnersTask"] == {
        "name": "lollygag:SyncOwnersTask",
        "priority": "normal",
        "size": "small",
        "periodic": False,
        "schedule": None,
        "retry_policy": "exponential backoff, base 5 s, 3 retries",
        "dlq_eligible": True,
        "distribution": "lollygag_tasks",
        "enabled_by_default": None,
    }
    assert tasks["lollygag:OwnerCleanupTask"]["periodic"] is True
    assert tasks["lollygag:OwnerCleanupTask"]["schedule"] == "every 3600 s"
    assert tasks["lollygag:OwnerCleanupTask"]["enabled_by_default"] is True
    assert "lollygag:Gone" not in tasks


def test_tasks_warns_of_broken_tasks_and_prints_a_plain_table_when_piped(extension: CommandLine) -> None:
    done = extension("tasks", FORCE_COLOR="")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    header, *rows = [line.split() for line in done.stdout.splitlines()]
    assert header[:3] == ["task", "priority", "size"]
    assert ["lollygag:Waits", "normal", "small", "no", "retry", "no", "lollygag_tasks"] in rows
    assert "warning: lollygag:Gone (lollygag_tasks) cannot be loaded" in done.stderr
    assert "warning: lollygag:NoDataclass: " in done.stderr


def test_help_and_the_list_of_tasks_load_no_nats_and_no_injection(extension: CommandLine) -> None:
    for arguments in (["--help"], ["tasks"]):
        done = subprocess.run(
            [sys.executable, "-c", LOADED, *arguments],
            env=extension.environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        loaded = set(json.loads(done.stderr.splitlines()[-1]))
        assert not loaded & ({"nats", "fast_depends"} if arguments == ["--help"] else {"nats"})


LOADED = """
import json, sys
from diracx.tasks.cli.app import run
code = run()
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
sys.exit(code)
"""


def test_help_names_every_command_and_fits_80_columns(bare: CommandLine) -> None:
    commands = [("call",), ("submit",), ("worker",), ("tasks",), ("setup",), ("dlq", "list")]
    whole, *found, bare_word, bare_group = bare.each(
        [("--help",), *((*command, "--help") for command in commands), (), ("dlq",)]
    )
    assert whole.returncode == 0
    assert (bare_word.returncode, bare_word.stdout, bare_word.stderr) == (2, whole.stdout, "")
    assert (bare_group.returncode, bare_group.stderr) == (2, "")
    assert "Put dead tasks back" in bare_group.stdout
    for command, shown in zip(commands, found, strict=True):
        assert f" {command[0]} " in whole.stdout
        assert shown.returncode == 0
        assert max(map(len, shown.stdout.splitlines())) <= 80
        assert "…" not in shown.stdout
