"""Questions and runbook come true: each command is typed on a mesh, each word is on the dashboard."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.wire.names import Namespace
from support.command_line import CommandLine, isolated_environment
from support.distributions import install_extension
from support.nats_command import OperatorShell
from support.pages import DOCS, commands
from support.processes import START_SECONDS, LoggedProcess
from support.secured import connected, secured_server

QUESTIONS, RUNBOOK = DOCS / "questions.md", DOCS / "runbook.md"
NAMESPACE = "diracx"
TOKEN = "a-token-of-a-test-process"
TASKS = ("SyncOwnersTask", "OwnerCleanupTask", "Dies", "Waits", "Spawns")
ROW = re.compile(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \| (.+) \|$", re.M)
PATHS = {
    "Overview": "/",
    "Tasks": "/tasks",
    "Dead letters": "/dead-letters",
    "Schedules": "/schedules",
    "Locks": "/locks",
    "Configuration": "/configuration",
    "the page of the dead letter": "/dead-letter?seq=1",
    "the page of the group": "/task?id={group}",
}
SHOWN_IN = ("h1", "h2", "h3", "th", "dt", "button", "label", "summary", "figcaption", "strong", "a")
"""The elements that hold what a reader would call a heading, a column or a button."""
OF_A_TASK = ("later", "done", "dead")
"""No task has all that the page of a task may show."""


@dataclass
class Asked:
    """A mesh with a task in every state, and its dashboard."""

    command_line: CommandLine
    dashboard: str
    ids: dict[str, str]
    """By state: `runs`, `parked`, `later`, `withdrawn`, `done`, `dead`, `group`."""


class Words(HTMLParser):
    """The texts of a page that a reader would call a heading, a column or a button."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self._open: list[tuple[str, bool]] = []
        self._texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin an element."""
        if tag in SHOWN_IN:
            self._open.append((tag, "hidden" in (dict(attrs).get("class") or "").split()))
            self._texts.append("")

    def handle_endtag(self, tag: str) -> None:
        """End an element, and keep its text if it can be seen."""
        if self._open and self._open[-1][0] == tag:
            hidden, text = self._open.pop()[1], " ".join(self._texts.pop().split())
            if not hidden:
                self.found.add(text.rstrip(":"))

    def handle_data(self, data: str) -> None:
        """Add to all elements that are open."""
        self._texts = [text + data for text in self._texts]


def wait_for(done: re.Pattern[str], process: LoggedProcess) -> str:
    """Wait until a process has written a text; return it."""
    end = time.monotonic() + START_SECONDS
    while (found := done.search(process.log)) is None:
        assert time.monotonic() < end, process.log
        assert process.process.poll() is None, process.log
        time.sleep(0.05)
    return found[0]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    """One server, a worker of small tasks, a scheduler and a dashboard."""
    folder = tmp_path_factory.mktemp("asked")
    points = {task: f"lollygag_tasks.tasks:{task}" for task in TASKS}
    install_extension(folder / "site", "lollygag_tasks", {"diracx.tasks.lollygag": points})
    with EmbeddedServer() as server:
        environment = isolated_environment(folder, server.url, NAMESPACE)
        line = CommandLine(environment | {"LOLLYGAG_FOLDER": str(folder), "COLUMNS": "200"}, folder)
        try:
            yield at_work(line)
        finally:
            for process in line.started:
                process.kill()
                process.wait()


def at_work(line: CommandLine) -> Asked:
    """Start the processes, submit a task for each state, and wait until each is in it."""
    LoggedProcess(line, "worker", "--worker-size", "small")
    LoggedProcess(line, "scheduler")
    dashboard = LoggedProcess(line, "dashboard", "--port", "0", DIRACX_TASKS_DASHBOARD_TOKEN=TOKEN)
    names = ("runs", "parked", "later", "withdrawn")
    for number, limit in enumerate((1, 2)):
        (line.folder / f"mesh-{number}.yaml").write_text(f"tasks: {{lollygag:Dies: {{concurrency_limit: {limit}}}}}\n")
    done = line.each(
        [
            ["config", "set", "mesh-0.yaml"],
            ["config", "set", "mesh-1.yaml"],
            ["submit", "lollygag:Waits", "--args", '["runs"]'],
            # It waits for the lock of the first.
            ["submit", "lollygag:Waits", "--args", '["runs"]'],
            ["submit", "lollygag:SyncOwnersTask", "--args", '["alice"]', "--delay", "3600", "--label", "vo=atlas"],
            ["submit", "lollygag:SyncOwnersTask", "--args", '["bob"]', "--delay", "3600"],
            ["submit", "lollygag:Spawns", "--wait"],
            ["submit", "lollygag:SyncOwnersTask", "--args", '["eve"]', "--wait"],
            ["submit", "lollygag:Dies", "--args", '["mice"]', "--wait"],
        ]
    )
    assert [each.returncode for each in done] == [0] * 8 + [1], done
    ids = dict(zip(names, (each.stdout.strip() for each in done[2:6]), strict=True))
    spawned, synced, dead = done[6:]
    ids["group"] = spawned.stdout.split()[-1].strip("'\"")
    ids["done"], ids["dead"] = (re.findall(r"[0-9a-f]{32}", each.stderr)[0] for each in (synced, dead))
    link = wait_for(re.compile(r"http://\S+/(?=login)"), dashboard)
    return Asked(line, link, ids)


def questions() -> list[tuple[str, str, str]]:
    """The number of each question, what its row says of the dashboard, and of the command line."""
    found = [(number, dashboard, line) for number, _, dashboard, line in ROW.findall(QUESTIONS.read_text("utf-8"))]
    assert [int(number) for number, *_ in found] == list(range(1, 31))
    return found


def typed(ids: dict[str, str]) -> dict[str, list[list[str]]]:
    """The commands of each question, with the ids of the tasks that it is about."""
    of = {"17": "parked", "18": "dead", "19": "done", "20": "group", "21": "withdrawn"}
    return {
        number: [
            [{"ID": ids.get(of.get(number, ""), "ID"), "SEQ": "1"}.get(word, word) for word in shlex.split(command)]
            for command in re.findall(r"`diracx-task-run ([^`]*)`", line)
        ]
        for number, _, line in questions()
    }


def test_each_question_is_answered_on_the_command_line(asked: Asked) -> None:
    by_question = typed(asked.ids)
    assert all(by_question.values())
    once = list(dict.fromkeys(tuple(words) for of_it in by_question.values() for words in of_it))
    done = dict(zip(once, asked.command_line.each(once), strict=True))
    for words, each in done.items():
        # There is a dead letter, of which a monitor is warned.
        assert each.returncode == (1 if "--check" in words else 0), (words, each.stdout, each.stderr)
        assert "Traceback" not in each.stderr
    shown = {number: "".join(done[tuple(words)].stdout for words in of_it) for number, of_it in by_question.items()}
    answers = {
        "1": "1 dead letter stored: run `diracx-task-run dlq list`",
        "2": "WARNING: ",
        "10": f"{asked.command_line.started[0].pid}",
        "12": "paused normal-small until 2",
        "13": asked.ids["runs"],
        "14": asked.ids["parked"],
        "15": "ValueError: mice",
        "16": asked.ids["later"],
        "17": "it waits for mutex.lollygag.runs",
        "18": "ValueError: mice",
        "19": "Result: ",
        "20": "2 children",
        "21": f"cancelled {asked.ids['withdrawn']}",
        "22": "lollygag:Dies",
        "23": "ValueError: mice",
        "25": "lollygag:OwnerCleanupTask",
        "28": "mutex.lollygag.runs",
        "29": "lollygag:Dies concurrency_limit: 1 -> 2",
        "30": "concurrency_limit  2",
    }
    assert {number: text for number, text in answers.items() if text not in shown[number]} == {}, shown


def pages_of(words: str, ids: dict[str, str]) -> list[str]:
    """The paths of the page that a clause names; none if it names none."""
    if words.startswith("the page of the task"):
        return [f"/task?id={ids[state]}" for state in OF_A_TASK]
    return [path.format_map(ids) for name, path in PATHS.items() if re.match(rf"{name}\b", words)]


def test_each_word_of_the_dashboard_is_on_the_page_that_is_named(asked: Asked) -> None:
    missing: list[str] = []
    with httpx.Client(base_url=asked.dashboard, timeout=30, follow_redirects=True) as browser:
        assert browser.get("/login", params={"token": TOKEN}).status_code == 200
        seen: dict[str, set[str]] = {}
        for number, row, _ in questions():
            paths: list[str] = []
            for clause in row.split("; "):
                paths = pages_of(clause, asked.ids) or paths
                for path in paths:
                    if path not in seen:
                        answer = browser.get(path)
                        assert answer.status_code == 200, (path, answer.text)
                        seen[path] = Words(answer.text).found
                shown = set[str]().union(*(seen[path] for path in paths))
                missing += [f"{number}: {word}" for word in re.findall(r"\*([^*]+)\*", clause) if word not in shown]
        assert not missing, seen
        assert browser.get("/ready").text == "ok\n"
    assert len(seen) >= len(PATHS)


def test_each_command_of_the_runbook_is_typed(asked: Asked) -> None:
    found = commands(RUNBOOK, "diracx-task-run")
    assert len(found) >= 9
    for words, each in zip(found, asked.command_line.each(found), strict=True):
        assert each.returncode == (1 if "--check" in words else 0), (words, each.stdout, each.stderr)
    paused = [words[0] for words in found if words[0] in ("pause", "resume")]
    assert paused == ["pause", "resume"]


@pytest.mark.nats_command
async def test_each_nats_command_of_the_runbook_is_typed(tmp_path: Path) -> None:
    names = Namespace(NAMESPACE)
    raising = re.findall(r"`(nats stream edit [^`]*)`", RUNBOOK.read_text("utf-8"))
    assert [command.split()[3] for command in raising] == ["DIRACX_TASKS", "DIRACX_DLQ", "KV_diracx_results"]
    with secured_server(NAMESPACE) as server:
        async with connected(server, NAMESPACE, "operator") as operator:
            await ensure(operator, assets(names), tolerant=False)
            shell = OperatorShell(server, tmp_path, NAMESPACE, folder=tmp_path)
            access = "--user diracx-operator --password $DIRACX_OPERATOR_PASSWORD"
            for command in raising:
                stream, limit = re.findall(r"edit (\S+) --max-bytes=(\d+)", command)[0]
                if stream.startswith("KV_"):
                    # It asks at a terminal whether a bucket is meant, and refuses without one.
                    refused = await shell.type_in(f"echo | {command} {access}", code=1)
                    assert re.search(rf"\+\s+MaxBytes:\s+{limit},", refused)
                    assert "Operating on the underlying stream of a Key-Value bucket" in refused
                    continue
                await shell.type_in(f"{command} {access}")
                info = await operator.api(f"STREAM.INFO.{stream}")
                assert info["config"]["max_bytes"] == int(limit)
            for words in commands(RUNBOOK, "nats"):
                assert "JetStream" in await shell.type_in(
                    f"nats {shlex.join(words)} --user admin --password $NATS_ADMIN_PASSWORD"
                )
