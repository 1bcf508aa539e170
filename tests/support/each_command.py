"""Runs command lines from standard input, a JSON list of lists; prints `[exit code, output, errors]` for each."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout

from diracx.tasks.cli.app import run


def captured() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)


def text(written: io.TextIOWrapper) -> str:
    written.seek(0)
    return written.read()


for arguments in json.load(sys.stdin):
    with redirect_stdout(captured()) as output, redirect_stderr(captured()) as errors:
        code = run(arguments)
    print(json.dumps([code, text(output), text(errors)]), flush=True)
