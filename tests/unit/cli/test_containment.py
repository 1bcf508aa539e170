"""What is put back after the code of an extension, and what stays."""

from __future__ import annotations

import io
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from diracx.tasks.cli.containment import contained


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    hook = sys.excepthook
    with warnings.catch_warnings():
        yield
    sys.excepthook = hook


def hook(*error: object) -> None:
    """Tell nothing."""


def test_streams_signals_and_the_folder_are_put_back_and_the_rest_stays(tmp_path: Path) -> None:
    streams = sys.stdin, sys.stdout, sys.stderr
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)}
    alarm = signal.getsignal(signal.SIGALRM)
    with contained():
        sys.stdin, sys.stdout, sys.stderr = io.StringIO(), io.StringIO(), io.StringIO()
        sys.stdout.close()
        for number in handlers:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        sys.excepthook = hook
        os.chdir("/")
    assert (sys.stdin, sys.stdout, sys.stderr) == streams
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    assert signal.signal(signal.SIGALRM, alarm) == signal.SIG_IGN
    assert sys.excepthook is hook
    assert Path.cwd() == tmp_path


def test_it_is_put_back_after_an_error_too(tmp_path: Path) -> None:
    def fails() -> None:
        os.chdir("/")
        raise ValueError("of the import")

    with pytest.raises(ValueError, match="of the import"), contained():
        fails()
    assert Path.cwd() == tmp_path


def test_a_folder_that_is_gone_is_nothing_to_go_back_to(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    with contained():
        gone.rmdir()
        os.chdir("/")
    assert Path.cwd() == Path("/")
    with contained():
        os.chdir(tmp_path)
        (tmp_path / "other").mkdir()
        os.chdir("other")
        os.rmdir("../other")
    assert Path.cwd() == Path("/")
    os.chdir(tmp_path)
    (tmp_path / "last").mkdir()
    os.chdir("last")
    os.rmdir("../last")
    with contained():
        os.chdir("/")
    assert Path.cwd() == Path("/")


def test_a_filter_that_makes_errors_of_warnings_is_removed_and_others_stay() -> None:
    warnings.simplefilter("ignore")
    with contained():
        warnings.simplefilter("error")
        warnings.filterwarnings("always", message="acme", category=UserWarning, module="acme")
    warnings.warn("no error", DeprecationWarning, stacklevel=1)
    kept = [each for each in warnings.filters if each[0] == "always"]
    assert [(str(getattr(each[1], "pattern", each[1])), each[2]) for each in kept][:1] == [("acme", UserWarning)]
    assert "error" not in {each[0] for each in warnings.filters[:2]}
