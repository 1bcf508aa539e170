"""`scripts/chaos`: producers, workers and disturbances for a bounded time, and a ledger that accounts for every task.

It exits with 1 if a task is lost, if no disturbance explains a repeated execution, or if a process ends unexpectedly.
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
from run import Plan, Report, carry_out


def main() -> int:
    """Carry out one run and print its ledger; return the exit code."""
    options = parse_arguments()
    plan = plan_from(options)
    folder = Path(tempfile.mkdtemp(prefix="diracx-tasks-chaos-"))
    logging.basicConfig(filename=folder / "producer.log")
    fine = False
    try:
        report = asyncio.run(until_terminated(plan, folder))
        fine = report.is_fine
        print(json.dumps(document(plan, report), indent=2) if options.json else text(plan, report))
    except (TaskError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        if not options.keep:
            shutil.rmtree(folder)
        else:
            print(f"journals and logs are kept in {folder}", file=sys.stderr)
    return 0 if fine else 1


async def until_terminated(plan: Plan, folder: Path) -> Report:
    """Carry out the plan; SIGTERM ends it gracefully."""
    this_task = asyncio.current_task()
    assert this_task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this_task.cancel)
    return await carry_out(plan, folder)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/chaos", description="Kill workers and the server under load, and account for every task."
    )
    for flag, default, text in (
        ("--tasks", 1000, "how many tasks are submitted"),
        ("--groups", 8, "how many of them spawn a group with a callback"),
        ("--children", 20, "how many children each group has"),
        ("--cancel", 20, "how many children of groups are cancelled"),
        ("--workers", 3, "worker processes at a time"),
        ("--slots", 10, "tasks at once in each worker"),
        ("--kill-workers", 5, "how often a worker is killed with SIGKILL and replaced"),
        ("--kill-server", 1, "how often the server is killed with SIGKILL and started again"),
        ("--stop-workers", 0, "how often a worker is stopped (SIGSTOP) past its leases and continued"),
        ("--cut", 0, "how often a worker is cut off from the server for a while"),
    ):
        parser.add_argument(flag, type=int, default=default, metavar="N", help=f"{text}; {default}")
    parser.add_argument("--size", choices=["small", "medium", "large"], default="small", help="of the tasks; small")
    parser.add_argument("--seed", type=int, help="of the random generator; drawn if not given, and printed")
    parser.add_argument(
        "--ack-wait", type=float, default=5, metavar="SECONDS", help="how long a lease lasts without a heartbeat; 5"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        help="within which all submissions and disturbances begin; by their number if not given",
    )
    parser.add_argument(
        "--deadline",
        type=float,
        help="seconds until the queues must be empty after the last disturbance; 60 or more if not given",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--keep", action="store_true", help="keep journals and logs")
    return parser.parse_args()


def plan_from(options: argparse.Namespace) -> Plan:
    """Make a plan of the options, with defaults for those that were not given."""
    busy = max(2 * options.kill_workers, 4 * options.kill_server, 8 * options.stop_workers, 8 * options.cut)
    return Plan(
        seed=random.randrange(1_000_000) if options.seed is None else options.seed,
        tasks=options.tasks,
        groups=options.groups,
        children=options.children,
        cancel=options.cancel if options.groups else 0,
        workers=options.workers,
        slots=options.slots,
        size=options.size,
        ack_wait=options.ack_wait,
        kill_workers=options.kill_workers,
        kill_server=options.kill_server,
        stop_workers=options.stop_workers,
        cut=options.cut,
        seconds=options.seconds or 3.0 + busy,
        deadline=options.deadline
        or 60 + 12 * options.ack_wait + (options.tasks + options.groups * options.children) / 50,
    )


def document(plan: Plan, report: Report) -> dict[str, object]:
    """For `--json`."""
    disturbances = report.disturbances
    return {
        "seed": plan.seed,
        "seconds": round(report.seconds, 1),
        "drained_after": report.drained_after and round(report.drained_after, 1),
        "worker_kills": len(disturbances.worker_kills),
        "server_kills": len(disturbances.server_outages),
        "stops": sum(map(len, disturbances.stops.values())),
        "cuts": plan.cut,
        "unanswered_submissions": report.unanswered,
        **report.ledger.document(),
        "problems": report.problems,
    }


def text(plan: Plan, report: Report) -> str:
    """For a person."""
    ledger, found = report.ledger, document(plan, report)
    done = f"drained {found['drained_after']} s later" if report.drained_after is not None else "NOT DRAINED"
    head = (
        f"seed {plan.seed}: {found['worker_kills']} workers and {found['server_kills']} times the server killed, "
        f"{found['stops']} stops, {found['cuts']} cuts; {found['seconds']} s in all, {done}"
    )
    lines = [
        head,
        "",
        f"{'submitted':44}{ledger.submitted:8,}",
        f"{'executed once':44}{ledger.once:8,}",
        f"{'executed more than once':44}{sum(ledger.repeated.values()):8,}",
        f"{'dead letters, as expected':44}{ledger.dead:8,}",
        f"{'given up without a dead letter, as expected':44}{ledger.dropped:8,}",
        f"{'cancelled':44}{ledger.cancelled:8,}",
        f"{'not settled at the end':44}{ledger.queued:8,}",
        f"{'lost':44}{len(ledger.lost):8,}",
        f"{'unexplained':44}{len(ledger.unexplained):8,}",
        "",
        f"groups with a callback: {ledger.groups:,}",
        f"retries by policy: {ledger.retries:,}",
        f"submissions without an answer: {report.unanswered:,}; tasks that ran nevertheless: {ledger.unannounced:,}",
        f"repeated executions: {sum(ledger.repeats.values()):,}",
        f"of these, begun before the previous one ended: {ledger.overlaps:,}",
        *(f"  {count:6,}  {cause}" for cause, count in ledger.repeats.most_common()),
        *(f"lost: {line}" for line in ledger.lost),
        *(f"unexplained: {line}" for line in ledger.unexplained),
        *(f"problem: {line}" for line in report.problems),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
