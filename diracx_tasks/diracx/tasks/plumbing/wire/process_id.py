"""The ids of processes, which stand in locks, attempt records, dead letters, logs and the answers of workers.

Host and pid lead an operator to the process. They do not tell processes in containers apart, where each may have one
host name and the pid 1, so four random letters end the id. A process keeps them from its start to its end, and so do
its threads; a process that it forks has another pid.
"""

from __future__ import annotations

import os
import secrets
import socket
from typing import Final

_LETTERS: Final = "abcdefghijkmnpqrstuvwxyz23456789"
"""Without those that look alike."""
_ENDING: Final = "".join(secrets.choice(_LETTERS) for _ in range(4))


def process_id(role: str) -> str:
    """The id `<host>-<pid>-<role>-<four letters>` of this process, e.g. `node1-412-small-x7k2`.

    Args:
        role: The size of a worker, `scheduler` or `call`.
    """
    return f"{socket.gethostname()}-{os.getpid()}-{role}-{_ENDING}"
