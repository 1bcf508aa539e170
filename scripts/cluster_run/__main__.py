"""A cluster of three nats-servers on loopback, with the files of nats/cluster/, to try what a cluster does.

up starts it and says how clients reach it; status shows servers and leaders; kill N and restart N end one like a crash,
or in order and start it again; down ends all. It is no cluster to keep data in: all servers share this machine.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from servers import SIZE, Cluster, Server

TOP = Path(__file__).parents[2]
TEMPORARY = Path(tempfile.gettempdir()) / f"diracx-tasks-cluster-{os.getuid()}"


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("up", "start three servers and wait until they are ready"),
        ("status", "show the servers, and the leaders of streams"),
        ("kill", "end one server by SIGKILL"),
        ("restart", "end one server in order if it runs, start it and wait until it has caught up"),
        ("down", "end all servers; temporary stores are removed"),
    ):
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.add_argument(
            "--folder", type=Path, default=TEMPORARY, help="configuration, logs and stores; kept by down if given"
        )
        if name in ("kill", "restart"):
            command.add_argument("place", type=int, choices=range(1, SIZE + 1), metavar="N", help=f"1 to {SIZE}")
        if name == "up":
            command.add_argument(
                "--port", type=int, help="of the first server; the next two follow; default: free ones"
            )
            command.add_argument("--nats", type=Path, default=TOP / "nats", help="a changed copy of the folder nats/")
    return parser


def up(folder: Path, nats: Path, port: int | None) -> None:
    if (folder / "cluster.json").exists():
        raise SystemExit(f"error: there is a cluster in {folder} already; end it with scripts/cluster down")
    cluster = Cluster.create(folder, nats, port)
    cluster.start(*cluster.state.servers)
    names = cluster.write_roles()
    print(f"export DIRACX_TASKS_NATS_URL={cluster.url}")
    print(f"# with user and password: . {folder}/ROLE.env, where ROLE is {', '.join(names)}")


def status(cluster: Cluster) -> None:
    leader = next((name for each in cluster.state.servers if (name := _meta_leader(each))), None)
    lines = []
    for server in cluster.state.servers:
        state = "ready" if server.is_ready else "not ready" if cluster.runs(server) else "ended"
        leads = ", meta leader" if server.name == leader and state != "ended" else ""
        lines.append(f"{server.name}  pid {server.pid}  {server.url}  {state}{leads}")
    streams: dict[str, str] = {}
    for server in cluster.state.servers:
        # Only the leader of a stream knows how far the others are.
        streams |= {name: line for name, line in _streams(server).items() if line or name not in streams}
    lines += [f"{name}  {line or 'no leader'}" for name, line in sorted(streams.items())]
    # At once, since a reader such as `grep -q` may leave after the first line.
    print("\n".join(lines))


def _meta_leader(server: Server) -> str | None:
    name: str | None = server.monitor("jsz").get("meta_cluster", {}).get("leader")
    return name


def _streams(server: Server) -> dict[str, str]:
    """The streams on this server: who leads each, and how far the followers are; empty: another one leads, or none."""
    accounts = server.monitor("jsz?streams=true").get("account_details", [])
    # An account without a stream has no list of them.
    details = [stream for account in accounts for stream in account.get("stream_detail", ())]
    streams = [(stream["name"], stream["cluster"]) for stream in details]
    return {name: _shown(server, cluster) if cluster.get("leader") == server.name else "" for name, cluster in streams}


def _shown(server: Server, cluster: dict[str, Any]) -> str:
    followers = [f"{each['name']} {'current' if each['current'] else 'behind'}" for each in cluster.get("replicas", [])]
    return ", ".join([f"leader {server.name}", *followers])


def main() -> None:
    arguments = parser().parse_args()
    folder = arguments.folder.absolute()
    if arguments.command == "up":
        up(folder, arguments.nats, arguments.port)
        return
    cluster = Cluster.load(folder)
    if arguments.command == "status":
        status(cluster)
    elif arguments.command == "down":
        cluster.end(signal.SIGTERM, *cluster.state.servers)
        cluster.forget(stores=folder == TEMPORARY)
    else:
        server = cluster.state.servers[arguments.place - 1]
        if arguments.command == "kill":
            cluster.end(signal.SIGKILL, server)
        else:
            cluster.end(signal.SIGTERM, server)
            cluster.start(server)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted; what was started goes on until scripts/cluster down", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
