"""The ids of processes."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading

from diracx.tasks.plumbing.wire.process_id import process_id


def test_it_leads_to_the_process_and_ends_in_four_letters() -> None:
    assert re.fullmatch(rf"{re.escape(socket.gethostname())}-{os.getpid()}-small-[a-z2-9]{{4}}", process_id("small"))


def test_a_process_and_its_threads_have_one_id() -> None:
    found = []
    thread = threading.Thread(target=lambda: found.append(process_id("large")))
    thread.start()
    thread.join()
    assert found == [process_id("large")]
    assert process_id("call")[-4:] == process_id("large")[-4:]


def test_another_process_of_the_same_host_and_pid_has_another_id() -> None:
    code = f"""
import os
os.getpid = lambda: {os.getpid()}
from diracx.tasks.plumbing.wire.process_id import process_id
print(process_id("small"))
"""
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert other[:-4] == process_id("small")[:-4]
    assert other != process_id("small")
