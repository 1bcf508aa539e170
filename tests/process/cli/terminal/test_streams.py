"""Standard output and error as shells connect them: in other encodings, closed, full, and broken off."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from support.command_line import COMMAND_SECONDS, CommandLine, OnTheServer
from support.distributions import install_extension, task_points
from support.paths import CONSOLE_SCRIPT

CALL = "$R call printing:Prints --args '[\"é—\"]'"
PRINTED = "é—\n" * 3 + "Result: é—\n"
ESCAPED = PRINTED.encode("ascii", "backslashreplace").decode()


@pytest.fixture
def shell(bare: CommandLine, server: EmbeddedServer, on_the_server: OnTheServer) -> CommandLine:
    """A command line with the extension `printing_tasks`, and the shared server."""
    install_extension(
        bare.folder / "site", "printing_tasks", task_points("printing", "printing_tasks.tasks", ["Prints"])
    )
    # Python lets `LC_ALL=POSIX` mean UTF-8 unless it is told not to.
    bare.environment |= {
        "DIRACX_TASKS_NATS_URL": server.url,
        "R": str(CONSOLE_SCRIPT),
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    }
    bare.environment.pop("PYTHONUNBUFFERED", None)
    return bare


def typed(shell: CommandLine, line: str) -> tuple[int, bytes, str]:
    """Type a line in bash. Returns the exit code of `$R`, what came out, and standard error."""
    done = subprocess.run(
        ["bash", "-c", f"{line}\nexit ${{PIPESTATUS[0]}}"],
        env=shell.environment,
        cwd=shell.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=COMMAND_SECONDS,
    )
    return done.returncode, done.stdout, done.stderr.decode()


def test_what_an_encoding_lacks_is_escaped_and_the_task_runs(shell: CommandLine) -> None:
    for environment, encoding, text in (
        ("PYTHONIOENCODING=ascii:strict PYTHONUNBUFFERED=1", "ascii", ESCAPED),
        ("LC_ALL=POSIX", "ascii", ESCAPED),
        ("PYTHONIOENCODING=cp1252:strict TERM=dumb", "cp1252", PRINTED),
        ("PYTHONIOENCODING=utf-16 NO_COLOR=1", "utf-16", PRINTED),
    ):
        code, out, err = typed(shell, f"{environment} {CALL}")
        assert (code, out.decode(encoding), err) == (0, text, ""), environment
    code, out, err = typed(shell, "PYTHONIOENCODING=latin-1 $R tasks --json")
    assert (code, out.isascii(), err) == (0, True, "")


def test_where_nobody_reads_a_command_does_its_work_and_says_so_by_its_code(shell: CommandLine) -> None:
    for line in (f"{CALL} >&-", f"{CALL} 2>&-", f"{CALL} <&- >&- 2>&-", f"{CALL} | true", f"{CALL} 2>/dev/full"):
        code, _, err = typed(shell, line)
        assert (code, err) == (0, ""), line
    assert shell.journal() == ["ran"] * 5
    for line in ("$R tasks >&-", "$R tasks | true", "$R tasks --json | true", "$R --help | true"):
        assert typed(shell, line) == (0, b"", ""), line


def test_where_the_disk_is_full_a_result_goes_to_standard_error_and_a_list_is_an_error(shell: CommandLine) -> None:
    full = "standard output cannot be written"
    code, _, err = typed(shell, f"{CALL} >/dev/full")
    assert (code, err) == (0, f"warning: {full}, No space left on device: é—\n")
    assert shell.journal() == ["ran"]
    for line in ("$R tasks >/dev/full", "$R tasks --json >/dev/full"):
        assert typed(shell, line) == (74, b"", f"error: {full}: No space left on device\n"), line
    assert typed(shell, f"{CALL} >/dev/full 2>&1")[0] == 0


async def test_a_status_that_is_watched_ends_with_its_reader(shell: CommandLine, on_the_server: OnTheServer) -> None:
    await on_the_server.set_up()
    for options in ("", "--json"):
        code, out, err = typed(shell, f"$R status --watch --interval 0.1 {options} | head -1")
        assert (code, out.count(b"\n"), err) == (0, 1, "")


IMPATIENT = """
import os, sys
from diracx.tasks.cli.terminal.streams import open_streams
os.set_blocking(1, False)
open_streams()
print("x" * (1 << 20))
"""


def test_a_pipe_that_somebody_made_non_blocking_gets_everything() -> None:
    read, write = os.pipe()
    with subprocess.Popen([sys.executable, "-c", IMPATIENT], stdout=write) as process:
        os.close(write)
        chunks: list[bytes] = []

        def drain() -> None:
            while chunk := os.read(read, 1 << 16):
                chunks.append(chunk)

        reader = threading.Thread(target=drain)
        reader.start()
        reader.join(COMMAND_SECONDS)
    os.close(read)
    assert process.returncode == 0
    assert len(b"".join(chunks)) == (1 << 20) + 1
