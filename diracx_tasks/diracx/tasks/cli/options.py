"""The options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, cast

import rich_click as click

from diracx.tasks.cli.installed import complete_tasks
from diracx.tasks.cli.logs import FORMATS, start_logging

Command = Callable[..., Any]

_SERVER_PANEL: Final = "Server"
_LONGEST_SECONDS: Final = 10 * 365 * 86_400


@dataclass(frozen=True, slots=True)
class Access:
    """What the command line says of the server; `access` turns it into settings."""

    namespace: str
    url: str | None = field(repr=False)
    context: str | None
    credentials: Mapping[str, str | None] = field(repr=False)
    """The other arguments of `ConnectionSettings.resolve`."""


# Generic in some versions of click only.
class Seconds(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A duration: a number of seconds, 0 or more and up to ten years."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Turn the text into a duration, or fail with a line."""
        if isinstance(value, timedelta):
            return value
        try:
            seconds = float(value)
        except ValueError:
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        if not 0 <= seconds <= _LONGEST_SECONDS:
            self.fail(f"{value} must be a number of seconds from 0 to {_LONGEST_SECONDS}", param, ctx)
        return timedelta(seconds=seconds)


class Number(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A whole number.

    Args:
        least: The least that is allowed.
        most: The most; None: there is no end.
    """

    name = "number"

    def __init__(self, least: int, most: int | None = None) -> None:
        self._least = least
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Turn the text into a number, or fail with a line."""
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is no whole number", param, ctx)
        if number < self._least or (self._most is not None and number > self._most):
            allowed = f"{self._least} or more" if self._most is None else f"from {self._least} to {self._most}"
            self.fail(f"{number} must be {allowed}", param, ctx)
        return number


class _ShownVariable(click.RichOption):
    """Names its variable in the help but does not read it.

    `ConnectionSettings.resolve` does: which credentials count depends on where they come from.
    """

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        return None


def _server_option(flag: str, name: str, variable: str, metavar: str, text: str) -> Callable[[Command], Command]:
    return click.option(
        flag,
        name,
        cls=_ShownVariable,
        metavar=metavar,
        envvar=f"DIRACX_TASKS_{variable}",
        show_envvar=True,
        panel=_SERVER_PANEL,
        help=text,
    )


_url_option: Final = _server_option(
    "--nats-url", "url", "NATS_URL", "URL[,URL]", "Servers; nats://127.0.0.1:4222 by default."
)
_context_option: Final = _server_option("--context", "context", "CONTEXT", "NAME", "A context of the nats command.")
_CREDENTIAL_OPTIONS: Final = {
    "creds": _server_option("--creds", "creds", "CREDS", "FILE", "A .creds file: user JWT and seed."),
    "nkey": _server_option("--nkey", "nkey", "NKEY", "FILE", "A file with an nkey seed."),
    "user": _server_option("--user", "user", "USER", "NAME", "User; its password is better left to the variable."),
    "password": _server_option("--password", "password", "PASSWORD", "TEXT", "Password; others may see the option."),
    "token": _server_option("--token", "token", "TOKEN", "TEXT", "Token; others may see the option."),
    "tls_ca": _server_option("--tls-ca", "tls_ca", "TLS_CA", "FILE", "Certificates that the server's is signed by."),
    "tls_cert": _server_option("--tls-cert", "tls_cert", "TLS_CERT", "FILE", "The client's certificate."),
    "tls_key": _server_option("--tls-key", "tls_key", "TLS_KEY", "FILE", "Its key."),
}

namespace_option: Final = click.option(
    "--namespace",
    metavar="NAME",
    default="diracx",
    show_default=True,
    envvar="DIRACX_TASKS_NAMESPACE",
    show_envvar=True,
    panel=_SERVER_PANEL,
    help="Whose streams: lower case letters, digits and _.",
)


def server_options(command: Command) -> Command:
    """Give a command the options of the server, as its argument `access`."""

    @functools.wraps(command)
    def with_access(*, namespace: str, url: str | None, context: str | None, **values: Any) -> Any:
        credentials = {name: values.pop(name) for name in _CREDENTIAL_OPTIONS}
        return command(access=Access(namespace, url, context, credentials), **values)

    decorated: Any = with_access
    for option in reversed([_url_option, _context_option, *_CREDENTIAL_OPTIONS.values(), namespace_option]):
        decorated = option(decorated)
    return panels(cast("Command", decorated))


def panels(command: Command) -> Command:
    """Frame the help of a command: what it takes, its own options, those of the server."""
    decorated = click.option_panel("Options")(click.option_panel(_SERVER_PANEL)(command))
    # Beside the name of an argument there would be its type, or the name again.
    return click.option_panel("Arguments", column_types=["required", "opt_long", "help"])(decorated)


def task_arguments(command: Command) -> Command:
    """Give a command the arguments `entry_point`, `args` and `kwargs`; see `arguments.task_from`."""
    for option in (
        click.option("--kwargs", metavar="JSON", help='Fields by name, e.g. \'{"owner_name": "alice"}\'.'),
        click.option("--args", metavar="JSON", help="Fields in their order, e.g. '[\"alice\"]'."),
        click.argument(
            "entry_point",
            metavar="ENTRY_POINT",
            help="<category>:<ClassName>; see `tasks`.",
            shell_complete=complete_tasks,
        ),
    ):
        command = option(command)
    return command


def log_option(default: str) -> Callable[[Command], Command]:
    """`--log-level` and `--log-format`: what is told on standard error, and how."""

    def start(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
        # Whichever is read last finds both; a mistake between the two is told without a log.
        told = ctx.meta.setdefault(__name__, {})
        told[parameter.name] = value
        if len(told) == 2:
            start_logging(told["log_level"], told["log_format"])
        return value

    level = click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
        metavar="LEVEL",
        default=default,
        show_default=True,
        envvar="DIRACX_TASKS_LOG_LEVEL",
        show_envvar=True,
        expose_value=False,
        is_eager=True,
        callback=start,
        help="What is told on standard error: debug, info, warning or error.",
    )
    form = click.option(
        "--log-format",
        type=click.Choice(FORMATS, case_sensitive=False),
        metavar="FORMAT",
        default=FORMATS[0],
        show_default=True,
        envvar="DIRACX_TASKS_LOG_FORMAT",
        show_envvar=True,
        expose_value=False,
        is_eager=True,
        callback=start,
        help="How: text, or json with one object a line.",
    )
    return lambda command: level(form(command))


json_option: Final = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
