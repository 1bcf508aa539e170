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
from typing import Any

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
        ("--schedulers", None, "schedulers, for a task that runs each second; 2 with --cluster, or else 0"),
        ("--slots", 10, "tasks at once in each worker"),
        ("--kill-workers", 5, "how often a worker is killed with SIGKILL and replaced"),
        ("--kill-server", 1, "how often a server is killed with SIGKILL and started again"),
        ("--restart-server", 0, "how often the servers are restarted in turn with SIGTERM"),
        ("--stop-workers", 0, "how often a worker is stopped (SIGSTOP) past its leases and continued"),
        ("--cut", 0, "how often a worker is cut off from the server for a while"),
    ):
        words = text if default is None else f"{text}; {default}"
        parser.add_argument(flag, type=int, default=default, metavar="N", help=words)
    parser.add_argument(
        "--cluster",
        action="store_true",
        help="three servers and three replicas; each kill takes the leader of the next one of: LATER, TASKS, a "
        "consumer, two buckets, the cluster; a submission with an error fails the run",
    )
    parser.add_argument(
        "--every",
        type=float,
        metavar="SECONDS",
        help="kill the servers at this interval, though an election may take longer: then a submission that found "
        "no leader fails no run; at random moments if not given",
    )
    parser.add_argument(
        "--max-late",
        type=float,
        metavar="SECONDS",
        help="how late an urgent task may begin that is due at a time, without the time of elections; more than "
        "--ack-wait, after which a message comes again that was on its way when a worker or a leader ended",
    )
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
    options = parser.parse_args()
    if options.cluster and options.cut:
        parser.error("--cut cuts off one server, and the clients of a cluster go to another: leave it out")
    return options


def plan_from(options: argparse.Namespace) -> Plan:
    """Make a plan of the options, with defaults for those that were not given."""
    # A cluster needs longer for its elections, and three servers for three restarts.
    kills = options.kill_server * (options.every or (12 if options.cluster else 4))
    restarts = options.restart_server * (30 if options.cluster else 4)
    busy = max(2 * options.kill_workers, kills, restarts, 8 * options.stop_workers, 8 * options.cut)
    return Plan(
        seed=random.randrange(1_000_000) if options.seed is None else options.seed,
        tasks=options.tasks,
        groups=options.groups,
        children=options.children,
        cancel=options.cancel if options.groups else 0,
        cluster=options.cluster,
        workers=options.workers,
        schedulers=(2 if options.cluster else 0) if options.schedulers is None else options.schedulers,
        slots=options.slots,
        size=options.size,
        ack_wait=options.ack_wait,
        kill_workers=options.kill_workers,
        kill_server=options.kill_server,
        restart_server=options.restart_server,
        every=options.every,
        stop_workers=options.stop_workers,
        cut=options.cut,
        seconds=options.seconds or 3.0 + busy,
        deadline=options.deadline
        or 60 + 12 * options.ack_wait + (options.tasks + options.groups * options.children) / 50,
        max_late=options.max_late,
    )


def document(plan: Plan, report: Report) -> dict[str, Any]:
    """For `--json`."""
    disturbances = report.disturbances
    return {
        "seed": plan.seed,
        "seconds": round(report.seconds, 1),
        "drained_after": report.drained_after and round(report.drained_after, 1),
        "worker_kills": len(disturbances.worker_kills),
        "server_kills": plan.kill_server,
        "rolling_restarts": plan.restart_server,
        "outages": [
            {
                "server": outage.server,
                "why": outage.why,
                "at": round(outage.begun - report.started, 1),
                "leaders_after": round(outage.led_again - outage.begun, 1),
            }
            for outage in sorted(disturbances.server_outages, key=lambda outage: outage.begun)
            if outage.led is not None
        ],
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
        f"seed {plan.seed}: {found['worker_kills']} workers and {found['server_kills']} times a server killed, "
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
        *lines_of_a_cluster(found),
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


def lines_of_a_cluster(found: dict[str, Any]) -> list[str]:
    """The outages, and what is measured beside them."""
    spread = "p50 {p50}, p99 {p99}, at most {max} s"
    return [
        *(
            f"{each['at']:7.1f} s  {each['server']} ended ({each['why']}), all leaders {each['leaders_after']} s later"
            for each in found["outages"]
        ),
        f"executions under a lock: {found['holders_of_locks']:,}",
        f"occurrences of the schedule: {found['occurrences']:,}",
        f"occurrences that expired beside a disturbance: {found['occurrences_missed']:,}",
        *(
            line
            for what, late in (("urgent", found["lateness_of_urgent"]), ("other", found["lateness"]))
            for line in (
                f"{what} tasks that were due at a time: {late['count']:,}, late by {spread.format(**late)}",
                f"  of these, beside an election: {late['beside_elections']['count']:,}",
                f"    late by {spread.format(**late['beside_elections'])}",
                f"  without the time of elections: {spread.format(**late['with_leaders'])}",
            )
        ),
        f"failures of tasks by no fault of their own: {len(found['failures']):,}",
    ]


if __name__ == "__main__":
    sys.exit(main())
