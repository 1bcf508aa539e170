"""nats-py is missing: the user reads what to install, instead of an AttributeError much later."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Finds `nats` in one folder only, and everything else as usual.
ONLY_FROM = """
import sys
from importlib.machinery import PathFinder

class NatsFromOneFolder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "nats":
            return None
        spec = PathFinder.find_spec(name, [{folder!r}])
        if spec is None:
            raise ModuleNotFoundError("No module named 'nats'", name="nats")
        return spec

sys.meta_path.insert(0, NatsFromOneFolder)
"""
IMPORT = "import diracx.tasks.plumbing.jetstream"


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)


def import_with_nats_from(folder: Path) -> str:
    """Import the package; returns the last line of its traceback."""
    done = run(ONLY_FROM.format(folder=str(folder)) + IMPORT)
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


def test_without_nats_py_the_error_names_the_package_to_install(tmp_path: Path) -> None:
    assert import_with_nats_from(tmp_path) == "ImportError: nats-py is not installed: pip install nats-py"


def test_a_folder_named_nats_is_not_taken_for_nats_py_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "nats").mkdir()
    last = import_with_nats_from(tmp_path)
    assert last.startswith("ImportError: nats-py is not installed: pip install nats-py")
    assert str(tmp_path / "nats") in last


def test_with_nats_py_the_import_works() -> None:
    done = run(IMPORT)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_module_that_nats_py_misses_is_named_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "nats").mkdir()
    (tmp_path / "nats" / "__init__.py").write_text("import something_else")
    assert import_with_nats_from(tmp_path) == "ModuleNotFoundError: No module named 'something_else'"
