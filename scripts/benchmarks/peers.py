"""How fast other systems drain no-op tasks, and how soon they begin one, beside this project.

Each system has an environment of its own, below `.venv-peers`, and runs its own worker command. A drain is measured in
the worker, from its 200th task to its last; so neither starts nor submissions count. CPU time is that of all processes
of the worker. A latency is the time from the submission of a task to an idle worker until its code begins. A round
measures all in turn, each on a server of its own that is new and empty. Linux only.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from drain import positive
from figures import Figures, quantiles
from peers_catalogue import DIRACX_OWN, OURS, PEERS, Peer
from peers_processes import environment_of, extension, install, redis_is_installed, running, serving, wait_until

SUMMARY: Final = "no-op tasks and latency of other task systems, and of DiracX's own, beside this project"
BOUND: Final = 20.0
"""The least speed of a drain, as a multiple of that of DiracX's own."""

START_SECONDS: Final = 60.0
"""The most that a worker or a submitter may take beyond what is measured."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--rounds", type=positive, default=3, metavar="N", help="rounds (3)")
    parser.add_argument("--tasks", type=positive, default=5_000, metavar="N", help="tasks of a drain (5000)")
    parser.add_argument("--samples", type=positive, default=50, metavar="N", help="latencies in a round (50)")
    parser.add_argument("--seconds", type=positive, default=5, metavar="N", help="the most that a drain takes (5)")
    parser.add_argument(
        "--only", nargs="+", choices=[peer.folder for peer in PEERS], metavar="NAME", help="of all: %(choices)s"
    )


@dataclass
class Measured:
    """What was measured of one system."""

    peer: Peer
    per_second: list[float] = field(default_factory=list)
    cpu_microseconds: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    """In ms."""

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.peer.name,
            "server": self.peer.server,
            "requirements": [each for each in self.peer.requirements if "==" in each],
            "per_second": Figures(self.per_second).document(),
            "cpu_microseconds": Figures(self.cpu_microseconds).document(),
            "latency_ms": quantiles(sorted(self.latencies), 2),
        }

    def row(self) -> str:
        """A line of the table."""
        latency = quantiles(sorted(self.latencies), 2)
        speed, cpu = Figures(self.per_second).text(",.0f"), Figures(self.cpu_microseconds).text(".0f")
        return f"{self.peer.name:24}{speed:>26}{cpu:>18}{latency['p50']:>12.2f}{latency['p99']:>10.2f}"


@dataclass(frozen=True)
class Report:
    """All systems, and the promised ratio."""

    measured: Sequence[Measured]

    @property
    def ratios(self) -> Figures | None:
        """Speed of this project divided by that of DiracX's own, for each round; None if one was not measured."""
        speeds = {each.peer: each.per_second for each in self.measured}
        if OURS not in speeds or DIRACX_OWN not in speeds:
            return None
        return Figures([ours / own for ours, own in zip(speeds[OURS], speeds[DIRACX_OWN], strict=True)])

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "bound": BOUND,
            "ratio": self.ratios.document() if self.ratios else None,
            "peers": [each.document() for each in self.measured],
        }

    def text(self) -> str:
        """A table."""
        lines = [f"{'':24}{'tasks/s':>26}{'us CPU/task':>18}{'ms, p50':>12}{'p99':>10}"]
        lines += [each.row() for each in self.measured]
        if self.ratios:
            lines.append(f"drain, to DiracX's own: {self.ratios.text('.1f')}; at least {BOUND:g} is promised")
        return "\n".join(lines)

    def missed(self) -> list[str]:
        """A line if the promised ratio was missed, or could not be measured."""
        if self.ratios is None:
            return ["the ratio to DiracX's own was not measured"]
        if self.ratios.median >= BOUND:
            return []
        return [f"{self.ratios.median:.1f} times as fast as DiracX's own, {BOUND:g} is promised"]


def run(options: argparse.Namespace) -> Report:
    """Measure all that can be run here."""
    peers = [peer for peer in PEERS if options.only is None or peer.folder in options.only]
    if not redis_is_installed():
        left_out = ", ".join(peer.name for peer in peers if peer.server == "Redis")
        print(f"LEFT OUT, without redis-server (Debian: apt install redis-server): {left_out}", file=sys.stderr)
        peers = [peer for peer in peers if peer.server != "Redis"]
    for peer in peers:
        install(peer)
    measured = [Measured(peer) for peer in peers]
    for turn in range(options.rounds):
        for one in measured if turn % 2 == 0 else reversed(measured):
            drained = measure(one.peer, "drain", options.tasks, options.seconds)
            one.per_second.append(drained["per_second"])
            one.cpu_microseconds.append(drained["cpu_microseconds"])
            idle = measure(one.peer, "latency", options.samples, options.seconds)
            one.latencies += [1e3 * seconds for seconds in idle["latencies"]]
            print(f"round {turn + 1} of {options.rounds}, {one.row()}", file=sys.stderr)
    return Report(measured)


def measure(peer: Peer, mode: str, tasks: int, seconds: float) -> dict[str, Any]:
    """One measurement of one system, on a server of its own.

    Args:
        mode: `drain` or `latency`.

    Raises:
        SystemExit: It did not come to an end.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="peers-")))
        url = stack.enter_context(serving(peer.server))
        environment = environment_of(peer, url, stack.enter_context(extension()))
        figures, filled = folder / "figures.json", folder / "filled"
        tally = {"TALLY_FILE": str(figures), "TALLY_TASKS": str(tasks), "TALLY_SECONDS": str(seconds)}
        try:
            if mode == "latency":
                stack.enter_context(running(peer.worker, folder, environment | tally))
            for command in peer.submitters(mode, tasks):
                submitting = running(command, folder, environment | {"PEER_FILLED": str(filled)})
                process = stack.enter_context(submitting)
                if mode == "drain" or command != peer.submitters(mode, tasks)[-1]:
                    wait_until(lambda: filled.exists() or process.poll() is not None, START_SECONDS, "all submitted")  # noqa: B023
            if mode == "drain":
                stack.enter_context(running(peer.worker, folder, environment | tally))
            wait_until(figures.exists, START_SECONDS + seconds, f"{peer.name} has done what is measured")
        except TimeoutError as error:
            logs = "".join(path.read_text(errors="replace")[-2000:] for path in sorted(folder.glob("*.log")))
            raise SystemExit(f"{logs}error: {peer.name}, {mode}: {error}") from None
        document: dict[str, Any] = json.loads(figures.read_text())
        return document
