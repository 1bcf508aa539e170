"""The log of this process stays, whatever code of an extension does to logging, at its import or while a task runs.

Such code may replace the handlers of the root logger, set its level, disable all loggers that exist
(`logging.config.dictConfig` does so by default), disable logging as a whole, or replace the standard streams.

* The loggers of `diracx.tasks` write through one handler, in one form and from one level on: those of `OwnLog`. They
  ask neither the root logger nor their own flags and filters, so not even the line after such a call is lost. What a
  handler or a record factory of an extension raises does not reach the code that logs.
* `OwnLog.restore` puts back what carries the lines of other packages: after the import of extensions, and at the next
  line of ours after it was changed.
* What an extension adds is kept: handlers that write to files or elsewhere get our lines too, and loggers keep the
  handlers and levels of their own. Only its handlers of the root logger that write to a standard stream are removed:
  each line would stand there twice, and once in another form.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from diracx.tasks.cli.terminal.streams import stream_of_the_log

_OURS = "diracx.tasks"
_LIBRARIES = frozenset({"diracx", "nats", "asyncio"})
"""Packages whose lines tell of this process. Those with tasks count as well."""
_END_OF_TLS = "returning true from eof_received() has no effect when using ssl"
"""What asyncio warns of whenever a server ends a TLS connection of nats-py; nothing is wrong then."""


def _is_news(record: logging.LogRecord) -> bool:
    return record.msg != _END_OF_TLS


class _OwnHandler(logging.StreamHandler):  # type: ignore[type-arg]  # it is generic for type checkers only
    """Writes to standard error in one form, whatever formatter it is given."""

    def __init__(self, form: logging.Formatter) -> None:
        super().__init__(stream_of_the_log())
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return self._form.format(record)


class OwnLog:
    """The log of this process. There is one at most; `start` makes it.

    Args:
        form: The form of a line.
        level: The level of the root logger.
        own_level: The level of DiracX and of packages with tasks, if it is a lower one.
        packages: Returns the packages with tasks.
    """

    current: OwnLog | None = None

    def __init__(
        self, form: logging.Formatter, level: int, own_level: int, packages: Callable[[], Collection[str]]
    ) -> None:
        self.handler = _OwnHandler(form)
        self.own_level = own_level
        self.kept_out = False
        """True while nothing may be written."""
        self._level = level
        self._stream = self.handler.stream
        self._packages = cache(packages)

    def start(self) -> None:
        """Log to standard error from now on, in place of what logged before."""
        logging.basicConfig(level=self._level, handlers=[self.handler], force=True)
        logging.getLogger("asyncio").addFilter(_is_news)
        OwnLog.current = self
        self._adopt_loggers()
        if self.own_level < self._level:
            for package in ("diracx", *self._packages()):
                logging.getLogger(package).setLevel(self.own_level)

    @property
    def disturbed(self) -> bool:
        """Whether somebody has changed what carries the lines of other packages."""
        root = logging.getLogger()
        return (
            self.handler not in root.handlers
            or bool(self.handler.filters)
            or root.level != self._level
            or root.manager.disable > 0
        )

    def restore(self) -> None:
        """Put everything back."""
        root = logging.getLogger()
        self.handler.setLevel(logging.NOTSET)
        self.handler.filters.clear()
        self.handler.stream = self._stream
        others = [handler for handler in root.handlers if handler is not self.handler]
        root.handlers[:] = [self.handler, *(handler for handler in others if not _on_a_standard_stream(handler))]
        root.setLevel(self._level)
        logging.disable(logging.NOTSET)
        packages = {*_LIBRARIES, *self._packages()}
        for name, logger in _loggers():
            if name.partition(".")[0] in packages:
                logger.disabled = False
        self._adopt_loggers()

    def _adopt_loggers(self) -> None:
        for name, logger in _loggers():
            if f"{name}.".startswith(f"{_OURS}.") and not isinstance(logger, _OwnLogger):
                logger.__class__ = _OwnLogger


class _OwnLogger(logging.Logger):
    """A logger of `diracx.tasks`, once the log of the process has started."""

    @property
    def disabled(self) -> bool:
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None:
        pass

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's own name
        log = OwnLog.current
        assert log is not None  # these loggers are as before once it has ended
        return level >= log.own_level or super().isEnabledFor(level)

    def makeRecord(self, name: str, level: int, fn: str, lno: int, *args: Any, **kwargs: Any) -> logging.LogRecord:  # noqa: N802 - logging's own name
        try:
            return super().makeRecord(name, level, fn, lno, *args, **kwargs)
        except Exception:  # by a record factory of an extension
            return _plain_record(name, level, fn, lno, *args, **kwargs)

    def handle(self, record: logging.LogRecord) -> None:
        self.callHandlers(record)

    def callHandlers(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        log = OwnLog.current
        assert log is not None
        if log.kept_out:
            return
        if log.disturbed:
            log.restore()
        if record.levelno >= log.own_level:
            log.handler.handle(record)
        for handler in _handlers_above(self):
            if handler is not log.handler and record.levelno >= handler.level:
                try:
                    handler.handle(record)
                except Exception:
                    handler.handleError(record)


def _plain_record(
    name: str,
    level: int,
    path: str,
    line: int,
    message: object,
    args: Any,
    error: Any,
    function: str | None = None,
    extra: Mapping[str, object] | None = None,
    stack: str | None = None,
) -> logging.LogRecord:
    record = logging.LogRecord(name, level, path, line, message, args, error, function, stack)
    vars(record).update(extra or {})
    return record


def _loggers() -> list[tuple[str, logging.Logger]]:
    known = list(logging.getLogger().manager.loggerDict.items())
    return [(name, logger) for name, logger in known if isinstance(logger, logging.Logger)]


def _handlers_above(logger: logging.Logger | None) -> Iterator[logging.Handler]:
    while logger is not None:
        yield from list(logger.handlers)
        logger = logger.parent if logger.propagate else None


def _on_a_standard_stream(handler: logging.Handler) -> bool:
    """Whether a handler writes to standard output or standard error."""
    if not isinstance(handler, logging.StreamHandler):
        return False
    try:
        return handler.stream.fileno() in (1, 2)
    except (AttributeError, OSError, ValueError):  # a stream in memory, or one that is closed
        return False


def end_log() -> None:
    """End the log of this process, if there is one: the next command that it runs has another."""
    if (log := OwnLog.current) is not None:
        for _, logger in _loggers():
            if isinstance(logger, _OwnLogger):
                logger.__class__ = logging.Logger  # type: ignore[assignment]  # its class before
        logging.getLogger().removeHandler(log.handler)
        OwnLog.current = None


@contextmanager
def log_kept_out() -> Iterator[None]:
    """Write no line of the log within the block, since it would stand in the middle of a screen."""
    log = OwnLog.current
    if log is not None:
        log.kept_out = True
    logging.disable()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        if log is not None:
            log.kept_out = False
