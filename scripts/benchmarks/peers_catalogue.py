"""The systems that `peers` compares, and how each is installed and run: its best documented settings for no-op tasks.

All run one worker with 100 tasks at once where they have such a number, log warnings only, keep no results, and
acknowledge a task after it was executed. uvloop is installed for those with asyncio; each uses it if it does so
by itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

TOP: Final = Path(__file__).parents[2]
UVLOOP: Final = "uvloop==0.23.0"

Server: TypeAlias = Literal["NATS", "Redis"]


@dataclass(frozen=True)
class Peer:
    """One system."""

    name: str
    server: Server
    folder: str
    """The name of its environment below `.venv-peers`."""
    requirements: tuple[str, ...]
    app: str
    """Its module in `scripts/benchmark_peers`."""
    worker: tuple[str, ...]
    size: str = "SMALL"
    """The size of the no-op task, where tasks have sizes."""

    def submitters(self, mode: str, tasks: int) -> list[list[str]]:
        """The commands that submit, one after another."""
        return [["python", f"{self.app}.py", mode, str(tasks)]]


@dataclass(frozen=True)
class Ours(Peer):
    """This project: `call` runs the task that submits."""

    def submitters(self, mode: str, tasks: int) -> list[list[str]]:
        """As above."""
        return [["diracx-task-run", "call", "bench:Fill", "--args", json.dumps([mode, tasks])]]


@dataclass(frozen=True)
class DiracxOwn(Peer):
    """DiracX's own: `call` has no broker, so a worker with one slot runs the task that submits."""

    def submitters(self, mode: str, tasks: int) -> list[list[str]]:
        """As above."""
        # More than are measured: that worker may hold some.
        fill = json.dumps([mode, tasks + 300])
        return [
            ["diracx-tasks", "submit", "bench:Fill", "--args", fill],
            ["diracx-tasks", "worker", "--worker-size", "small", "--max-concurrent-tasks", "1"],
        ]


_SIZE: Final = ("--worker-size", "small", "--max-concurrent-tasks", "100")
_TASKIQ: Final = (
    *("taskiq", "worker", "taskiq_app:broker", "--workers", "1", "--max-async-tasks", "100"),
    *("--log-level", "WARNING", "--no-parse", "--ack-type", "when_executed"),
)
_CELERY: Final = (
    *("celery", "-A", "celery_app", "worker", "--pool", "solo", "--loglevel", "WARNING"),
    *("--without-gossip", "--without-mingle"),
)

OURS: Final = Ours(
    "this project",
    "NATS",
    "this-project",
    ("--editable", f"{TOP}[uvloop]", UVLOOP),
    "diracx_app",
    ("diracx-task-run", "worker", *_SIZE),
)
DIRACX_OWN: Final = DiracxOwn(
    "DiracX's own",
    "Redis",
    "diracx-own",
    ("diracx-tasks===0.7.0", UVLOOP),
    "diracx_app",
    # Medium: the task that submits is small, and a worker of small tasks leaves these alone.
    ("diracx-tasks", "worker", "--worker-size", "medium", "--max-concurrent-tasks", "100"),
    size="MEDIUM",
)
# The two whose ratio is promised stand side by side: they are measured one right after the other.
PEERS: Final = (
    OURS,
    DIRACX_OWN,
    Peer(
        "taskiq, JetStream",
        "NATS",
        "taskiq-nats",
        ("taskiq==0.13.0", "taskiq-nats==0.7.0", "nats-py==2.16.0", UVLOOP),
        "taskiq_app",
        _TASKIQ,
    ),
    Peer(
        "FastStream, JetStream",
        "NATS",
        "faststream",
        ("faststream[nats,cli]==0.7.8", "nats-py==2.16.0", UVLOOP),
        "faststream_app",
        ("faststream", "run", "faststream_app:app"),
    ),
    Peer(
        "taskiq, Redis streams",
        "Redis",
        "taskiq-redis",
        ("taskiq==0.13.0", "taskiq-redis==1.2.4", "redis[hiredis]==8.1.0", UVLOOP),
        "taskiq_app",
        _TASKIQ,
    ),
    Peer(
        "arq",
        "Redis",
        "arq",
        ("arq==0.28.0", "hiredis==3.5.0", UVLOOP),
        "arq_app",
        ("arq", "--custom-log-dict", "arq_app.LOGGING", "arq_app.WorkerSettings"),
    ),
    Peer(
        "SAQ",
        "Redis",
        "saq",
        ("saq[hiredis]==0.26.4", "typing_extensions==4.16.0", "redis==8.1.0", UVLOOP),
        "saq_app",
        ("saq", "saq_app.settings"),
    ),
    Peer(
        "Celery, solo pool",
        "Redis",
        "celery",
        ("celery[redis]==5.7.0", "redis[hiredis]==8.1.0"),
        "celery_app",
        _CELERY,
    ),
)
