"""Three servers in a folder: their configuration, their state in a file, their processes and what they report.

`up` ends and the servers go on, so each later command finds them in `cluster.json`. A process is ended only if its
command line names the configuration in this folder: a process id alone may belong to somebody else by then.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final

import msgspec

from diracx.tasks.plumbing.embedded.cluster import free_ports
from diracx.tasks.plumbing.embedded.server import find_nats_server
from diracx.tasks.plumbing.operations.accounts import password_variable, user_name
from diracx.tasks.plumbing.operations.permissions import roles
from diracx.tasks.plumbing.wire.names import Namespace

SIZE: Final = 3
NAMESPACE: Final = Namespace()
READY_SECONDS: Final = 60.0
END_SECONDS: Final = 20.0
ANSWER_SECONDS: Final = 2.0
POLL_SECONDS: Final = 0.1


class Server(msgspec.Struct):
    """A server as `cluster.json` has it; ports are on loopback."""

    name: str
    port: int
    monitoring_port: int
    route_port: int
    pid: int = 0
    """Its last process; it may have ended."""

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def monitor(self, path: str) -> dict[str, Any]:
        """What the monitoring endpoint answers, e.g. to `healthz`; empty: it does not answer."""
        try:
            with closing(HTTPConnection("127.0.0.1", self.monitoring_port, timeout=ANSWER_SECONDS)) as monitoring:
                monitoring.request("GET", f"/{path}")
                content: dict[str, Any] = json.load(monitoring.getresponse())
        except (OSError, HTTPException, ValueError):
            return {}
        return content

    @property
    def is_ready(self) -> bool:
        """Whether it runs, knows the leader of the cluster, and has caught up with its streams."""
        return self.monitor("healthz").get("status") == "ok"


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold a Ctrl-C back until the end of the block."""
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        raise KeyboardInterrupt


class State(msgspec.Struct):
    """The content of `cluster.json`. It has the passwords, so only its owner may read it."""

    servers: list[Server]
    variables: dict[str, str]
    """The environment of the servers, without the name and the store of each."""


class Cluster:
    """The servers of one folder.

    Raises:
        SystemExit: From `load`: `up` has not been called, or `down` has; or the state is damaged.
    """

    def __init__(self, folder: Path, state: State) -> None:
        self.folder = folder
        self.state = state

    @classmethod
    def create(cls, folder: Path, configuration: Path, port: int | None) -> Cluster:
        """Write the configuration of three servers, with new passwords; start nothing.

        Args:
            configuration: The folder `nats/`, or a copy with changes.
            port: The port of the first server, those of the others follow it; None: free ones.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        free = free_ports(3 * SIZE)
        clients = free[:SIZE] if port is None else range(port, port + SIZE)
        servers = [
            Server(f"nats-{place + 1}", clients[place], free[SIZE + place], free[2 * SIZE + place])
            for place in range(SIZE)
        ]
        variables = {password_variable(NAMESPACE, role): _password() for role in roles(NAMESPACE)}
        variables |= {"NATS_ADMIN_PASSWORD": _password(), "NATS_CLUSTER_PASSWORD": (password := _password())}
        urls = [f"nats://route:{password}@127.0.0.1:{server.route_port}" for server in servers]
        cluster = cls(folder, State(servers, variables | {"NATS_ROUTES": json.dumps(urls)}))
        # nats-server takes paths of included files as relative to the file, also those that begin with a slash.
        included = os.path.relpath(configuration.resolve(), folder.resolve())
        for server in servers:
            cluster.file(server, "conf").write_text(
                f"include {json.dumps(f'{included}/cluster/server.conf')}\n"
                # What stands below takes the place of what is included: loopback alone, and ports of its own.
                f"listen: 127.0.0.1:{server.port}\n"
                f"http: 127.0.0.1:{server.monitoring_port}\n"
                "cluster {\n"
                f"    include {json.dumps(f'{included}/cluster/routes.conf')}\n"
                f"    listen: 127.0.0.1:{server.route_port}\n"
                "}\n"
            )
        cluster.save()
        return cluster

    @classmethod
    def load(cls, folder: Path) -> Cluster:
        try:
            return cls(folder, msgspec.json.decode((folder / "cluster.json").read_bytes(), type=State))
        except FileNotFoundError:
            raise SystemExit(f"error: no cluster in {folder}; start one with scripts/cluster up") from None
        except msgspec.MsgspecError as error:
            raise SystemExit(
                f"error: {folder}/cluster.json cannot be read ({error}): end each nats-server whose command line names "
                f"{folder}, and remove this file"
            ) from None

    def save(self) -> None:
        (draft := self.folder / "cluster.json.draft").touch(0o600)
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(self.state), indent=2))
        # Whoever is interrupted leaves the old state or the new one.
        draft.replace(self.folder / "cluster.json")

    def write_roles(self) -> list[str]:
        """Write a file a role that a shell sources for the URL, user and password of its clients; return the roles."""
        names = list(roles(NAMESPACE))
        for role in names:
            (path := self.folder / f"{role}.env").touch(0o600)
            path.write_text(
                f"export DIRACX_TASKS_NATS_URL={self.url}\n"
                f"export DIRACX_TASKS_USER={user_name(NAMESPACE, role)}\n"
                f"export DIRACX_TASKS_PASSWORD={self.state.variables[password_variable(NAMESPACE, role)]}\n"
            )
        return names

    @property
    def url(self) -> str:
        """The URLs of all servers, separated by commas."""
        return ",".join(server.url for server in self.state.servers)

    def file(self, server: Server, ending: str) -> Path:
        return self.folder / f"{server.name}.{ending}"

    def runs(self, server: Server) -> bool:
        """Whether its process runs; another process with the same id does not count."""
        shown = subprocess.run(
            ["ps", "-ww", "-o", "args=", "-p", str(server.pid)], capture_output=True, text=True, check=False
        )
        return server.pid > 0 and str(self.file(server, "conf")) in shown.stdout

    def start(self, *servers: Server) -> None:
        """Start servers that do not run, and wait until they and all others that run are ready.

        Raises:
            SystemExit: A server ended, or is not ready in time. What was started goes on.
        """
        for server in servers:
            own = {"NATS_SERVER_NAME": server.name, "NATS_STORE_DIR": str(self.file(server, "store"))}
            # A server whose process id nobody has noted could not be ended.
            with uninterrupted(), self.file(server, "log").open("ab") as log:
                server.pid = subprocess.Popen(
                    [find_nats_server(), "-c", str(self.file(server, "conf"))],
                    env=os.environ | self.state.variables | own,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # Ctrl-C in this terminal is not for the servers.
                    start_new_session=True,
                ).pid
                self.save()
        for server in [each for each in self.state.servers if each in servers or self.runs(each)]:
            if not self._becomes(lambda server: server.is_ready or not self.runs(server), server, READY_SECONDS):
                raise SystemExit(
                    f"error: {server.name} is not ready after {READY_SECONDS:g} s; {self._last_words(server)}"
                )
            if not server.is_ready:
                raise SystemExit(f"error: {server.name} ended; {self._last_words(server)}")

    def end(self, how: signal.Signals, *servers: Server) -> None:
        """Send a signal to servers that run, and wait until they have ended.

        Raises:
            SystemExit: One did not end in time.
        """
        running = [server for server in servers if self.runs(server)]
        for server in running:
            os.kill(server.pid, how)
        for server in running:
            if not self._becomes(lambda server: not self.runs(server), server, END_SECONDS):
                raise SystemExit(f"error: {server.name} has not ended {END_SECONDS:g} s after {how.name}")

    @staticmethod
    def _becomes(fact: Callable[[Server], bool], server: Server, seconds: float) -> bool:
        """Wait for a fact about a server; return whether it came true in time."""
        deadline = time.monotonic() + seconds
        while not (true := fact(server)) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return true

    def _last_words(self, server: Server) -> str:
        log = self.file(server, "log")
        return f"{log} ends with: {log.read_text(errors='replace').strip().rpartition(chr(10))[2]}"

    def forget(self, *, stores: bool) -> None:
        """Remove what `up` wrote, and with `stores` the streams and the folder as well."""
        if stores:
            shutil.rmtree(self.folder)
        else:
            for path in (self.folder / "cluster.json", *self.folder.glob("*.env"), *self.folder.glob("*.conf")):
                path.unlink()


def _password() -> str:
    # A letter first: nats-server would take what begins with a digit for a number.
    return f"p{secrets.token_hex(24)}"
