"""nats-py is missing: what the user reads, instead of an AttributeError much later."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

MODULE = find_spec("diracx.tasks.plumbing.jetstream.client_library")


def import_with_only(path: Path) -> subprocess.CompletedProcess[str]:
    """Run the module where `path` and the standard library are all that can be imported."""
    assert MODULE is not None
    assert MODULE.origin is not None
    program = f"import sys, runpy; sys.path.append({str(path)!r}); runpy.run_path({MODULE.origin!r})"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False, timeout=60
    )


def test_without_nats_py_the_error_says_what_to_install(tmp_path: Path) -> None:
    done = import_with_only(tmp_path)
    assert done.stderr.splitlines()[-1] == "ImportError: nats-py is not installed: pip install nats-py"


def test_a_folder_named_nats_does_not_pass_for_nats_py_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "nats").mkdir()
    done = import_with_only(tmp_path)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: nats-py is not installed: pip install nats-py")
    assert str(tmp_path / "nats") in last


def test_with_nats_py_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "nats").mkdir()
    (tmp_path / "nats" / "__init__.py").touch()
    assert import_with_only(tmp_path).returncode == 0


def test_another_module_that_nats_py_misses_is_named_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "nats").mkdir()
    (tmp_path / "nats" / "__init__.py").write_text("import something_else")
    assert "No module named 'something_else'" in import_with_only(tmp_path).stderr.splitlines()[-1]
