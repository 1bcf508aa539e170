"""`scripts/soak`: a mesh under mixed load for a bounded time, and a table of what grows.

Tasks that succeed, fail, hold locks, time out and block; VOs that come and go; dead letters that are replayed and
purged; workers and schedulers that are restarted and cut off. Names of locks and VOs never come twice.

It exits with 1 if something still grows after the warm-up, the first third of the time; if something is left when all
tasks have ended; or if a process ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from diracx.tasks.plumbing.exceptions import TaskError
from run import Plan, Report, Sample, carry_out
from trend import growing_types, growth, tolerance_of

WARM_UP_SHARE = 1 / 3
SHOWN = ("server MB", "small worker MB", "medium worker MB", "scheduler MB", "small worker objects")


def main() -> int:
    """Carry out one run and print its table; return the exit code."""
    options = parse_arguments()
    folder = Path(tempfile.mkdtemp(prefix="diracx-tasks-soak-"))
    logging.basicConfig(filename=folder / "producer.log")
    plan = Plan(
        seed=random.randrange(1_000_000) if options.seed is None else options.seed,
        seconds=options.minutes * 60,
        sample_seconds=options.sample,
        a_second=options.rate,
        restart_seconds=options.restart,
        cut_seconds=options.cut,
    )
    try:
        print(f"seed {plan.seed}: {options.minutes:g} minutes, then the mesh drains", file=sys.stderr)
        report = asyncio.run(until_terminated(plan, folder))
    except TaskError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        if options.keep:
            print(f"samples and logs are kept in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder)
    growing = growing_measures(report)
    print(json.dumps(document(plan, report, growing), indent=2) if options.json else text(report, growing))
    return 1 if growing or report.left or report.problems else 0


async def until_terminated(plan: Plan, folder: Path) -> Report:
    """Carry out the plan; SIGTERM ends it gracefully."""
    this_task = asyncio.current_task()
    assert this_task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this_task.cancel)
    return await carry_out(plan, folder, print_sample)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/soak", description="Run a mesh under mixed load, and say what grows or is left behind."
    )
    for flag, default, metavar, words in (
        ("--minutes", 60.0, "N", "how long the load lasts"),
        ("--sample", 10.0, "SECONDS", "between two samples"),
        ("--rate", 60.0, "N", "submitted tasks a second"),
        ("--restart", 15.0, "SECONDS", "between two restarts of a worker or scheduler"),
        ("--cut", 20.0, "SECONDS", "between two cuts of a worker's connection"),
    ):
        parser.add_argument(flag, type=float, default=default, metavar=metavar, help=f"{words}; {default:g}")
    parser.add_argument("--seed", type=int, help="of the random generator; drawn if not given, and printed")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--keep", action="store_true", help="keep samples and logs")
    return parser.parse_args()


def print_sample(seconds: float, sample: Sample) -> None:
    """Show that the run goes on."""
    values = ", ".join(f"{name} {sample[name]:,.0f}" for name in SHOWN if name in sample)
    print(f"{seconds:6.0f} s  {values}", file=sys.stderr, flush=True)


def after_warm_up(report: Report, measure: str) -> list[float]:
    """The samples of one measure after the warm-up."""
    samples = report.samples[round(len(report.samples) * WARM_UP_SHARE) :]
    return [sample[measure] for sample in samples if measure in sample]


def growing_measures(report: Report) -> dict[str, float]:
    """By how much each measure grows that does."""
    measures = dict.fromkeys(name for sample in report.samples for name in sample)
    found = {name: growth(after_warm_up(report, name), tolerance_of(name)) for name in measures}
    return {name: grown for name, grown in found.items() if grown is not None}


def document(plan: Plan, report: Report, growing: dict[str, float]) -> dict[str, object]:
    """For `--json`."""
    return {
        "seed": plan.seed,
        **report.counts,
        "samples": report.samples,
        "growing": growing,
        "types": {name: growing_types(types[len(types) // 3], types[-1]) for name, types in report.types.items()},
        "left": report.left,
        "problems": report.problems,
    }


def text(report: Report, growing: dict[str, float]) -> str:
    """For a person."""
    lines = [", ".join(f"{count:,} {what}" for what, count in report.counts.items()), ""]
    lines.append(f"{'':34}{'warm':>12}{'middle':>12}{'end':>12}")
    for name in report.samples[-1] if report.samples else ():
        values = after_warm_up(report, name)
        three = (values[0], values[len(values) // 2], values[-1])
        mark = f"   GROWS by {growing[name]:,.1f}" if name in growing else ""
        lines.append(f"{name:34}" + "".join(f"{value:12,.1f}" for value in three) + mark)
    for name, types in report.types.items():
        more = growing_types(types[len(types) // 3], types[-1])
        lines += ["", f"more objects in the {name}: " + ", ".join(f"{kind} {count:+,}" for kind, count in more.items())]
    lines += [f"left behind: {name} {value:,.0f}" for name, value in report.left.items()]
    lines += [f"problem: {line}" for line in report.problems]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
