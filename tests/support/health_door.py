"""The health endpoint of a process, requested over HTTP."""

from __future__ import annotations

import re
import subprocess
import urllib.error
import urllib.request


def get(url: str) -> tuple[int, str]:
    """Request a URL; return the status and the body."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def health_of(process: subprocess.Popen[str]) -> str:
    """The URL of the health endpoint, as the log of the process has it."""
    assert process.stderr is not None
    for line in process.stderr:
        if match := re.search(r"health on (http://127\.0\.0\.1:\d+)", line):
            return match[1]
    raise AssertionError("the process ended without serving its health")
