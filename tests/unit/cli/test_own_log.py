"""The log of a process, after code of others has changed logging."""

from __future__ import annotations

import io
import logging
import logging.config
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diracx.tasks.cli.own_log import OwnLog, end_log, log_kept_out

OURS = "diracx.tasks.test_own_log"
THEIRS = "acme_of_own_log.tasks"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What the log writes. It is started at `info`, and all of logging is as before at the end."""
    root = logging.getLogger()
    handlers, level, disabled = list(root.handlers), root.level, root.manager.disable
    logger_class = logging.getLoggerClass()
    for name in (OURS, THEIRS):
        logging.getLogger(name)
    out = io.StringIO()
    root.handlers.clear()  # those of pytest are not for these tests to change
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.stderr", out)
        log = OwnLog(logging.Formatter("OURS %(message)s"), logging.INFO, logging.INFO, lambda: {"acme_of_own_log"})
        log.start()
        yield out
    end_log()
    logging.setLoggerClass(logger_class)
    for name, logger in logging.Logger.manager.loggerDict.items():
        if isinstance(logger, logging.Logger):
            logger.disabled = False
            if name in ("diracx", "diracx.tasks", OURS, THEIRS):
                logger.setLevel(logging.NOTSET)
                logger.propagate = True
                logger.handlers.clear()
                logger.filters.clear()
    for handler in root.handlers:
        handler.close()  # those of pytest are not among them
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.disable(disabled)


def configuration(**root: object) -> dict[str, object]:
    stream = {"class": "logging.StreamHandler", "stream": "ext://sys.__stderr__"}
    return {"version": 1, "handlers": {"console": stream}, "root": {"handlers": ["console"], **root}}


def formatted_by_others() -> None:
    current = OwnLog.current
    assert current is not None  # the other handlers are those of pytest
    current.handler.setFormatter(logging.Formatter("THEIRS %(message)s"))
    current.handler.setLevel(logging.CRITICAL)


def raises(*args: object) -> Any:
    """Of theirs: as when a ContextVar has no value outside of their requests."""
    raise LookupError("request_id")


def broken_handler() -> logging.Handler:
    handler = logging.StreamHandler(io.StringIO())
    handler.addFilter(raises)
    return handler


def filtered_by_others(chosen: logging.Filter | Callable[[logging.LogRecord], bool]) -> None:
    current = OwnLog.current
    assert current is not None
    for filterer in (current.handler, logging.getLogger("diracx.tasks"), logging.getLogger(OURS)):
        filterer.addFilter(chosen)


WAYS: dict[str, Callable[[], object]] = {
    "dictConfig": lambda: logging.config.dictConfig(configuration(level="ERROR")),
    "dictConfig, kept loggers": lambda: logging.config.dictConfig(
        {**configuration(level="ERROR"), "disable_existing_loggers": False}
    ),
    "dictConfig of our loggers": lambda: logging.config.dictConfig(
        {"version": 1, "loggers": {"diracx": {"level": "ERROR", "propagate": False, "handlers": []}}}
    ),
    "basicConfig": lambda: logging.basicConfig(force=True, stream=sys.__stderr__, level="ERROR"),
    "disable": lambda: logging.disable(logging.CRITICAL),
    "handlers cleared": lambda: logging.getLogger().handlers.clear(),
    "level": lambda: logging.getLogger().setLevel(logging.CRITICAL),
    "level of ours": lambda: logging.getLogger("diracx.tasks").setLevel(logging.CRITICAL),
    "disabled by hand": lambda: setattr(logging.getLogger(OURS), "disabled", True),
    "no propagation": lambda: setattr(logging.getLogger("diracx.tasks"), "propagate", False),
    "another form": formatted_by_others,
    "shutdown": logging.shutdown,
    "filters": lambda: filtered_by_others(logging.Filter(THEIRS)),
}


@pytest.mark.parametrize("way", WAYS)
def test_our_next_line_is_written_once_in_our_form_and_then_those_of_others_as_well(
    written: io.StringIO, way: str
) -> None:
    WAYS[way]()
    logging.getLogger(OURS).info("one")
    logging.getLogger(OURS).debug("too low")
    assert written.getvalue() == "OURS one\n"
    current = OwnLog.current
    assert current is not None
    current.restore()
    logging.getLogger(THEIRS).info("two")
    logging.getLogger("asyncio").info("three")
    assert written.getvalue() == "OURS one\nOURS two\nOURS three\n"


def test_a_handler_of_theirs_that_writes_elsewhere_gets_our_lines_too(written: io.StringIO, tmp_path: Path) -> None:
    root = {"version": 1, "handlers": {"file": {"class": "logging.FileHandler", "filename": str(tmp_path / "log")}}}
    logging.config.dictConfig({**root, "root": {"handlers": ["file"], "level": "ERROR"}})
    in_memory, closed = io.StringIO(), io.StringIO()
    closed.close()
    for stream in (in_memory, closed):
        logging.getLogger().addHandler(logging.StreamHandler(stream))
    logging.getLogger().handlers[-1].setLevel(logging.CRITICAL)
    logging.getLogger(OURS).info("one")
    assert (tmp_path / "log").read_text() == in_memory.getvalue() == "one\n"


@pytest.mark.parametrize(
    "way",
    [
        lambda: filtered_by_others(raises),
        lambda: logging.getLogger().addHandler(broken_handler()),
        lambda: logging.setLogRecordFactory(raises),
    ],
    ids=["filter", "handler", "record factory"],
)
def test_what_their_logging_raises_does_not_reach_our_code(
    written: io.StringIO, way: Callable[[], object], capsys: pytest.CaptureFixture[str]
) -> None:
    factory = logging.getLogRecordFactory()
    try:
        way()
        logging.getLogger(OURS).info("one %s", "and only", extra={"task": "x"})
    finally:
        logging.setLogRecordFactory(factory)
    assert written.getvalue().startswith("OURS one and only\n")


def test_a_logger_that_comes_later_is_ours_as_well_and_its_class_is_theirs_no_more(written: io.StringIO) -> None:
    class Louder(logging.Logger):
        pass

    logging.setLoggerClass(Louder)
    later = logging.getLogger(f"{OURS}.later")
    logging.disable(logging.CRITICAL)
    logging.getLogger(OURS).info("one")
    logging.disable(logging.CRITICAL)
    later.info("two")
    assert written.getvalue() == "OURS one\nOURS two\n"
    assert type(logging.getLogger(f"{THEIRS}.later")) is Louder


def test_nothing_is_written_into_a_screen(written: io.StringIO) -> None:
    with log_kept_out():
        logging.getLogger(OURS).error("one")
        logging.getLogger(THEIRS).error("two")
    logging.getLogger(OURS).error("three")
    assert written.getvalue() == "OURS three\n"


def test_once_it_has_ended_the_loggers_are_as_before() -> None:
    with log_kept_out():
        pass
    assert OwnLog.current is None
    end_log()
    assert type(logging.getLogger(OURS)) is logging.Logger
