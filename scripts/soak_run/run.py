"""One soak run: a mesh with processes that stay and others that come and go, sampled until its time is over."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import probe
import soak_tasks
from diracx.tasks.plumbing.clock import boottime
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.stream_messages import request_to_count
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.scheduler.reconciler import REMOVAL_AGE
from load import Load
from processes import Seat, megabytes, open_files, threads
from support.command_line import isolated_environment
from support.distributions import install_metadata, task_points
from support.tcp_proxy import TcpProxy

CATEGORY = "soak"
NAMESPACE = "diracx"
REMOVAL_SECONDS = REMOVAL_AGE.total_seconds() + 60
DRAIN_SECONDS = 90.0
VO_SECONDS = 4.0
DEAD_LETTER_SECONDS = 7.0

Sample = dict[str, float]


@dataclass(frozen=True)
class Plan:
    """The parameters of a run."""

    seed: int
    seconds: float
    sample_seconds: float
    a_second: float
    """Submitted tasks a second."""
    restart_seconds: float
    """How often a process is ended and replaced."""
    cut_seconds: float
    """How often a worker that stays is cut off from the server."""


@dataclass
class Report:
    """The result of a run."""

    samples: list[Sample] = field(default_factory=list)
    types: dict[str, list[dict[str, int]]] = field(default_factory=dict)
    """The objects of the processes that stay, by type, at each sample."""
    left: Sample = field(default_factory=dict)
    """What is left once nothing runs any more, and should not be."""
    problems: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


async def carry_out(plan: Plan, folder: Path, on_sample: Callable[[float, Sample], object]) -> Report:
    """Carry out a plan; all processes that it starts have ended when it returns."""
    (folder / "probes").mkdir()
    names = [kind.__name__ for kind in soak_tasks.KINDS]
    install_metadata(folder / "site", "soak_tasks", task_points(CATEGORY, soak_tasks.__name__, names))
    registry = TaskRegistry()
    for kind in soak_tasks.KINDS:
        registry.add(f"{CATEGORY}:{kind.__name__}", kind)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(EmbeddedServer())
        proxies = [await stack.enter_async_context(TcpProxy(server.url)) for _ in range(2)]
        connecting = JetStreamBroker.connect(server.url, name="diracx-soak", registry=registry)
        broker = await stack.enter_async_context(connecting)
        load = Load(broker, random.Random(plan.seed), plan.a_second, asyncio.Event())
        mesh = _Mesh(plan, folder, server, proxies, load)
        await mesh.start()
        stack.push_async_callback(mesh.end)
        await mesh.run(on_sample)
    return mesh.report


class _Mesh:
    def __init__(self, plan: Plan, folder: Path, server: EmbeddedServer, proxies: list[TcpProxy], load: Load) -> None:
        self.report = Report()
        self._plan = plan
        self._folder = folder
        self._server = server
        self._proxies = proxies
        self._load = load
        self._choose = random.Random(f"{plan.seed} disturbances")
        urls = [*(proxy.url for proxy in proxies), server.url]
        small, medium = (["worker", "--worker-size", size, "--grace", "5"] for size in ("small", "medium"))
        self._stay = [
            self._seat("small worker", small, urls[0]),
            self._seat("medium worker", medium, urls[1]),
            self._seat("scheduler", ["scheduler"], urls[2]),
        ]
        self._go = [
            self._seat("small worker that goes", small, server.url),
            self._seat("medium worker that goes", medium, server.url),
            self._seat("scheduler that goes", ["scheduler"], server.url),
        ]
        self._cuts = 0

    def _seat(self, name: str, arguments: list[str], url: str) -> Seat:
        environment = isolated_environment(self._folder, url, NAMESPACE) | {
            probe.FOLDER_VARIABLE: str(self._folder / "probes"),
            probe.SECONDS_VARIABLE: str(self._plan.sample_seconds / 2),
            "PYTHONPATH": os.pathsep.join((str(self._folder / "site"), str(Path(soak_tasks.__file__).parent))),
        }
        return Seat(name, arguments, environment, self._folder / f"{name.replace(' ', '-')}.log")

    async def start(self) -> None:
        # The scheduler that goes leads first, so that the one that stays takes over from it.
        for seat in (*self._go, *self._stay):
            await seat.start()

    async def end(self) -> None:
        await asyncio.gather(*(seat.end() for seat in (*self._go, *self._stay)))
        self.report.problems += [problem for seat in (*self._go, *self._stay) for problem in seat.problems]

    async def run(self, on_sample: Callable[[float, Sample], object]) -> None:
        load, stop = self._load, self._load.stop
        running: list[Coroutine[Any, Any, None]] = [
            load.submit(),
            load.change_vos(VO_SECONDS),
            load.empty_dead_letters(DEAD_LETTER_SECONDS),
            self._restart(),
            self._cut(),
            self._sample(on_sample),
        ]
        async with asyncio.TaskGroup() as group:
            for each in running:
                group.create_task(each)
            await asyncio.sleep(self._plan.seconds)
            stop.set()
        await self._drain()
        self.report.counts = {
            "submitted": load.submitted,
            "refused": load.refused,
            "VOs gone": len(load.gone),
            "dead letters replayed": load.replayed,
            "dead letters purged": load.purged,
            "restarts": sum(seat.restarts for seat in self._go),
            "cuts": self._cuts,
        }

    async def _restart(self) -> None:
        kill = False
        while not await self._stopped_within(self._plan.restart_seconds):
            await self._choose.choice(self._go).restart(kill=kill)
            kill = not kill

    async def _cut(self) -> None:
        while not await self._stopped_within(self._plan.cut_seconds):
            silently = self._cuts % 2 == 1
            await self._choose.choice(self._proxies).cut(self._choose.uniform(0.5, 3), silently)
            self._cuts += 1

    async def _stopped_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._load.stop.wait()
        return self._load.stop.is_set()

    async def _sample(self, on_sample: Callable[[float, Sample], object]) -> None:
        begun = boottime()
        while not await self._stopped_within(self._plan.sample_seconds):
            try:
                sample = await self._measure()
            except ServerError as error:
                self.report.problems.append(f"no sample: {error}")
                continue
            self.report.samples.append(sample)
            on_sample(boottime() - begun, sample)

    async def _measure(self) -> Sample:
        sample: Sample = {"server MB": megabytes(self._server.pid)}
        for seat in self._stay:
            if (pid := seat.pid) is not None:
                sample |= {
                    f"{seat.name} MB": megabytes(pid),
                    f"{seat.name} fds": open_files(pid),
                    f"{seat.name} threads": threads(pid),
                }
                if (counts := probe.latest(self._folder / "probes", pid)) is not None:
                    sample |= {f"{seat.name} tasks": counts["tasks"], f"{seat.name} objects": counts["objects"]}
                    self.report.types.setdefault(seat.name, []).append(counts["types"])
        return sample | await self._measure_streams()

    async def _measure_streams(self) -> Sample:
        sample: Sample = {}
        connection, names = self._load.broker.connection, self._load.broker.namespace
        for stream in dict.fromkeys(asset.stream for asset in assets(names)):
            info = await connection.api(f"STREAM.INFO.{stream}")
            if stream.startswith("KV_"):
                sample[f"{stream.removeprefix('KV_')} keys"] = info["state"].get("num_subjects", 0)
            else:
                sample[f"{stream} messages"] = info["state"]["messages"]
            if stream == names.tasks_stream:
                sample[f"{stream} consumers"] = info["state"]["consumer_count"]
        # It grows by a message a minute, for two days.
        del sample[f"{names.history_stream} messages"]
        # Of each schedule that ever ran, how its latest run has ended stays for a year.
        runs = await connection.api(
            f"STREAM.INFO.KV_{names.results_bucket}", request_to_count(f"$KV.{names.results_bucket}.run.>")
        )
        sample[f"{names.results_bucket} keys"] -= int(runs.get("total", 0))
        counted = request_to_count(f"{names.name}.state.>")
        states = int((await connection.api(f"STREAM.INFO.{names.later_stream}", counted)).get("total", 0))
        sample[f"{names.later_stream} messages"] -= states
        recent = sum(at > boottime() - REMOVAL_SECONDS for at in self._load.gone)
        # One more VO may have come and gone unseen, and `Ticks` has a state of its own.
        sample["schedule states overdue"] = max(0, states - len(self._load.vos) - recent - 2)
        return sample

    async def _drain(self) -> None:
        """Wait until nothing is left of the tasks, and record what is left after all."""
        deadline = boottime() + DRAIN_SECONDS
        while True:
            await self._load.settle_dead_letters()
            sample = await self._measure_streams()
            names = self._load.broker.namespace
            # The leader holds a lock, the periodic task has a held occurrence or two, and the configuration stays.
            allowed = {f"{names.locks_bucket} keys": 1, f"{names.config_bucket} keys": 1}
            allowed |= {f"{names.later_stream} messages": 30, f"{names.tasks_stream} consumers": 9}
            allowed |= {f"{names.tasks_stream} messages": 1}
            self.report.left = {name: value for name, value in sample.items() if value > allowed.get(name, 0)}
            if not self.report.left or boottime() > deadline:
                return
            await asyncio.sleep(1)
