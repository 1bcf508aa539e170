"""`status`, health, logs and telemetry of real processes."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.testing import wait_until
from support.command_line import CommandLine, OnTheServer
from support.health_door import get, health_of
from support.paths import CONSOLE_SCRIPT
from support.queues import set_ack_wait

SMALL = ("worker", "--worker-size", "small")


WORKER_FIELDS = (
    "id size slots busy host pid since isolated clock_ahead_seconds not_served per_second last_pull_seconds "
    "memory_bytes"
)


async def test_the_document_names_a_running_worker_and_scheduler(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    worker = with_server.start(*SMALL, "--max-concurrent-tasks", "3")
    scheduler = with_server.start("scheduler")
    assert with_server("submit", "lollygag:Waits", "--args", '["a"]').returncode == 0
    await with_server.wait_for_line("begin a")
    documents = []

    def all_there() -> bool:
        documents.append(with_server.json("status"))
        return bool(documents[-1]["workers"] and documents[-1]["scheduler"]["leader"])

    await wait_until(all_there, description="both are listed", timeout=30)
    document = documents[-1]
    host = socket.gethostname()
    (listed,) = document["workers"]
    assert " ".join(listed) == WORKER_FIELDS
    assert listed.pop("memory_bytes") > 1 << 20
    assert abs(listed.pop("clock_ahead_seconds")) < 5, "the server is on the same machine"
    assert (since := listed.pop("since")).endswith("Z")
    assert datetime.fromisoformat(since) <= datetime.now(UTC) + timedelta(seconds=2), "by the server's clock"
    expected = {"size": "small", "slots": 3, "busy": 1, "host": host, "pid": worker.pid, "isolated": None}
    assert re.fullmatch(rf"{re.escape(host)}-{worker.pid}-small-[a-z2-9]{{4}}", listed.pop("id"))
    assert listed.pop("per_second") == 0.0
    assert listed.pop("last_pull_seconds") >= 0
    assert listed == {**expected, "not_served": {}}
    leader = document["scheduler"]["leader"]
    assert re.fullmatch(rf"{re.escape(host)}-{scheduler.pid}-scheduler-[a-z2-9]{{4}}", leader)
    assert list(document["scheduler"].pop("clock_ahead_seconds")) == [leader]
    assert document["scheduler"] == {"leader": leader, "standbys": []}
    (queue,) = (each for each in document["queues"] if each["in_hand"])
    assert (queue["subject"], queue["in_hand"]) == (f"{on_the_server.names.name}.tasks.normal.small", 1)
    shown = with_server("status")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"{host} {worker.pid}  small  1/3" in shown.stdout
    assert f"{leader} leads; 0 standing by" in shown.stdout
    assert "\x1b" not in shown.stdout
    with_server.release("a")


async def test_a_task_that_ran_in_killed_workers_is_isolated_and_its_worker_says_so_and_is_healthy(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    await on_the_server.set_up()
    await set_ack_wait(on_the_server.connection, on_the_server.names, 1.5, [Size.SMALL])
    submitted = with_server("submit", "lollygag:Waits", "--args", '["a"]')
    worker = (*SMALL, "--lock-retry-delay", "0.1", "--log-level", "warning")
    for execution in (1, 2, 3):
        killed = with_server.start(*worker)
        await with_server.wait_for_line("begin a", execution)
        killed.kill()
    isolating = with_server.start(*SMALL, "--lock-retry-delay", "0.1", "--health-port", "0")
    address = health_of(isolating)
    await with_server.wait_for_line("begin a", 4)
    name = f"lollygag:Waits {submitted.stdout.strip()}"

    def listed() -> list[tuple[int, str | None]]:
        return [(each["pid"], each["isolated"]) for each in with_server.json("status")["workers"]]

    await wait_until(lambda: listed() == [(isolating.pid, name)], description="status names the task", timeout=30)
    assert with_server("status").stdout.splitlines()[-1].endswith(f"  {name}")
    for page in ("live", "ready"):
        assert get(f"{address}/{page}") == (200, "ok\n")
    with_server.release("a")
    await wait_until(lambda: listed() == [(isolating.pid, None)], description="the isolation is over", timeout=30)
    isolating.terminate()
    _, log = isolating.communicate(timeout=30)
    told = [line for line in log.splitlines() if name in line and " WARNING " in line]
    assert len(told) == 3, log
    assert "waits until it is the only task of this worker: 2 executions of it began and never ended" in told[0]
    assert " runs isolated, after " in told[1]
    assert " ran isolated for " in told[2]


def test_a_namespace_without_a_mesh_is_one_line(with_server: CommandLine) -> None:
    done = with_server("status")
    assert (done.returncode, done.stdout) == (69, "")
    assert re.fullmatch(r"error: namespace \w+ does not exist on this server: .*\n", done.stderr)


def test_no_server_is_one_line(extension: CommandLine) -> None:
    done = extension("status", "--json")
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr.count("\n") == 1


def test_watching_on_a_terminal_draws_until_ctrl_c_and_piped_it_is_a_document_a_line(
    with_server: CommandLine,
) -> None:
    assert with_server("setup").returncode == 0
    piped = with_server.start("status", "--watch", "--json", "--interval", "0.05")
    assert piped.stdout is not None
    lines = [json.loads(piped.stdout.readline()) for _ in range(2)]
    assert [line["workers"] for line in lines] == [[], []]
    piped.send_signal(signal.SIGINT)
    assert piped.wait(timeout=30) == 0
    screen, terminal = pty.openpty()
    watching = subprocess.Popen(
        [str(CONSOLE_SCRIPT), "status", "--watch", "--interval", "0.05"],
        env=with_server.environment | {"TERM": "xterm-256color", "LINES": "24"},
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    seen = b""
    while seen.count(b"no workers") < 2:
        seen += os.read(screen, 65536)
    watching.send_signal(signal.SIGINT)
    while True:
        try:
            rest = os.read(screen, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not rest:
            break
        seen += rest
    os.close(screen)
    assert watching.wait(timeout=30) == 0
    assert b"background large" in seen
    # The terminal is given back as it was: out of the alternate screen.
    assert seen.rindex(b"\x1b[?1049l") > seen.index(b"\x1b[?1049h")
    assert b"Traceback" not in seen


@pytest.mark.parametrize("options", [["--json"], []])
def test_an_outage_is_one_line_of_a_watched_status_and_its_end_another(
    extension: CommandLine, own_server: EmbeddedServer, options: list[str]
) -> None:
    extension.environment["DIRACX_TASKS_NATS_URL"] = own_server.url
    assert extension("setup").returncode == 0
    watching = extension.start("status", "--watch", "--interval", "0.05", *options)
    assert watching.stdout is not None
    assert watching.stderr is not None
    assert watching.stdout.readline()
    own_server.stop()
    lines = [next(line for line in watching.stderr if "no news" in line)]
    own_server.start()
    while "the news go on" not in lines[-1]:
        lines.append(next(line for line in watching.stderr if "news" in line))
    watching.send_signal(signal.SIGINT)
    _, rest = watching.communicate(timeout=30)
    assert all(line.startswith("warning: no news: ") for line in lines[:-1])
    assert len(lines[:-1]) == len({line.partition(" (tried")[0] for line in lines[:-1]}), "no reason is told twice"
    told = re.fullmatch(r"the news go on, after (\d+) failed tries in \d+ s\n", lines[-1])
    assert told, lines
    assert int(told[1]) >= 2
    assert "news" not in rest


async def test_a_worker_is_live_and_ready_and_not_ready_without_its_server(
    extension: CommandLine, own_server: EmbeddedServer
) -> None:
    extension.environment["DIRACX_TASKS_NATS_URL"] = own_server.url
    worker = extension.start(*SMALL, "--health-port", "0")
    address = health_of(worker)
    await wait_until(lambda: get(f"{address}/ready") == (200, "ok\n"), description="it is ready", timeout=30)
    assert get(f"{address}/live") == (200, "ok\n")
    own_server.stop()
    await wait_until(
        lambda: get(f"{address}/ready") == (503, "not connected to NATS\n"), description="it knows", timeout=30
    )
    assert get(f"{address}/live") == (200, "ok\n")
    own_server.start()
    await wait_until(lambda: get(f"{address}/ready") == (200, "ok\n"), description="it is ready again", timeout=30)


async def test_a_scheduler_has_the_same_health_endpoint(with_server: CommandLine) -> None:
    address = health_of(with_server.start("scheduler", DIRACX_TASKS_HEALTH_PORT="0"))
    assert get(f"{address}/live") == (200, "ok\n")
    assert get(f"{address}/ready") == (200, "ok\n")


def test_a_health_port_in_use_is_one_line(with_server: CommandLine) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = with_server(*SMALL, "--health-port", str(taken.getsockname()[1]), "--log-level", "warning")
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert re.match(r"error: Invalid value for '--health-port': 127\.0\.0\.1:\d+: Address already in use", last)


@pytest.mark.parametrize("way", ["option", "variable"])
def test_json_logs_are_one_object_a_line_with_task_id_attempt_and_worker(with_server: CommandLine, way: str) -> None:
    task_id = with_server("submit", "lollygag:Dies", "--args", '["line\\nbreak"]').stdout.strip()
    arguments, environment = (
        (["--log-format", "json"], {}) if way == "option" else ([], {"DIRACX_TASKS_LOG_FORMAT": "json"})
    )
    done = with_server(*SMALL, "--burst", *arguments, **environment)
    assert done.returncode == 0
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    (dead,) = (line for line in lines if line["level"] == "error" and "task" in line)
    assert dead["message"].startswith("dead: lollygag:Dies")
    assert (dead["task"], dead["id"], dead["attempt"]) == ("lollygag:Dies", task_id, 1)
    assert re.fullmatch(rf"{re.escape(socket.gethostname())}-\d+-small-\w{{4}}", dead["worker"])
    assert datetime.fromisoformat(dead["time"]).tzinfo is not None
    assert dead["logger"] == "diracx.tasks.worker"


def test_text_logs_are_one_line_an_event_with_the_same_facts(with_server: CommandLine) -> None:
    task_id = with_server("submit", "lollygag:Dies", "--args", '["line\\nbreak"]').stdout.strip()
    done = with_server(*SMALL, "--burst")
    (line,) = (each for each in done.stderr.splitlines() if "dead: " in each)
    assert "ValueError: line\\nbreak [task=lollygag:Dies" in line
    assert re.search(rf" \[task=lollygag:Dies id={task_id} attempt=1 worker=\S+-small-\w{{4}}\]$", line)


def test_telemetry_is_set_up_by_the_standard_variables(with_server: CommandLine) -> None:
    variables = {"OTEL_TRACES_EXPORTER": "console"}
    submitted = with_server("submit", "lollygag:SyncOwnersTask", "--args", '["alice"]', **variables)
    assert '"name": "publish ' in submitted.stdout
    worked = with_server(*SMALL, "--burst", **variables)
    assert worked.returncode == 0, worked.stderr
    trace_id = re.compile(r'"trace_id": "(\w+)"')
    assert set(trace_id.findall(submitted.stdout)) == set(trace_id.findall(worked.stdout))
    assert '"diracx.tasks.outcome": "succeeded"' in worked.stdout


def test_an_exporter_that_is_not_installed_is_one_line(with_server: CommandLine) -> None:
    done = with_server(*SMALL, "--log-level", "error", OTEL_TRACES_EXPORTER="zipkin9")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: OTEL_TRACES_EXPORTER: 'zipkin9' is not installed here")


def test_without_the_extra_everything_works_and_a_warning_names_the_extra(with_server: CommandLine) -> None:
    # Stands before the installed packages on the path, and cannot be imported.
    absent = with_server.folder / "site" / "opentelemetry"
    absent.mkdir()
    (absent / "__init__.py").write_text("raise ImportError('not installed')\n")
    with_server("submit", "lollygag:SyncOwnersTask", "--args", '["alice"]')
    done = with_server(*SMALL, "--burst", OTEL_TRACES_EXPORTER="console")
    assert done.returncode == 0, done.stderr
    assert with_server.journal() == ["sync alice"]
    assert "nothing is measured: install the extra, pip install 'diracx-tasks[otel]'" in done.stderr


@pytest.mark.parametrize(
    ("typed", "meant"), [(["stats"], "'status'"), (["wrker"], "'worker'"), (["status", "--jsn"], "'--json'")]
)
def test_a_near_miss_is_named(bare: CommandLine, typed: list[str], meant: str) -> None:
    done = bare(*typed)
    assert done.returncode == 2
    assert "Did you mean" in done.stderr
    assert meant in done.stderr


def test_help_is_in_groups_and_without_colours_off_a_terminal(bare: CommandLine) -> None:
    done = bare("--help")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert done.stdout.index(" Run ") < done.stdout.index("See and operate") < done.stdout.index("Options ─")


def test_a_shell_completes_commands_and_options(bare: CommandLine) -> None:
    complete = {"_DIRACX_TASK_RUN_COMPLETE": "bash_complete", "COMP_WORDS": "diracx-task-run sta", "COMP_CWORD": "1"}
    assert bare(**complete).stdout.splitlines() == ["plain,status"]
    complete |= {"COMP_WORDS": "diracx-task-run status --w", "COMP_CWORD": "2"}
    assert bare(**complete).stdout.splitlines() == ["plain,--watch"]
