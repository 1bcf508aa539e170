"""`scripts/interop`: this project beside the distributions of DiracX that it stands among.

1. The tests of `diracx-routers`, with this project in the place of DiracX's `diracx-tasks`.
2. Tests of ours that need FastAPI or DiracX, with the versions that `diracx-routers` requires.
3. The commands of the page "Beside DiracX", typed in environments of their own.

It exits with 1 if anything differs from what is expected.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import page
import routers

TOP = Path(__file__).parents[2]
OUR_TESTS = (
    "tests/unit/injection",
    "tests/unit/test_installation.py",
    "tests/process/test_reference_extension.py",
    "tests/process/jetstream/test_web_application.py",
)


def main() -> int:
    """Run all three; return the exit code."""
    failed = []
    for name, run in (
        (f"tests of diracx-routers {routers.VERSION}", routers.run),
        ("tests of ours beside it", our_tests),
        ("commands of the page", page.run),
    ):
        print(f"== {name}", flush=True)
        problems = run()
        for problem in problems:
            print(f"   {problem}", flush=True)
        if problems:
            failed.append(name)
    print(f"FAILED: {', '.join(failed)}" if failed else "interop: all as expected")
    return 1 if failed else 0


def our_tests() -> list[str]:
    """Run the tests; return what went wrong."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--numprocesses", "2", *OUR_TESTS]
    done = subprocess.run(command, cwd=TOP, check=False)
    return [f"pytest ended with {done.returncode}"] if done.returncode else []


if __name__ == "__main__":
    sys.exit(main())
