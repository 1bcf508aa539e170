"""Options and arguments that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final, cast

import rich_click as click

from diracx.tasks.cli.terminal.help_page import help_page
from diracx.tasks.plumbing.exceptions import shown
from diracx.tasks.plumbing.wire.names import check_vo

Command = Callable[..., Any]

_SERVER_PANEL: Final = "Server"


@dataclass(frozen=True, slots=True)
class Access:
    """The options that name the server. The module `access` turns them into settings."""

    namespace: str
    url: str | None = field(repr=False)
    context: str | None
    credentials: Mapping[str, str | None] = field(repr=False)
    """Further arguments of `ConnectionSettings.resolve`, by name."""


MAX_SEQUENCE: Final = 2**64 - 1
"""The largest sequence of a message, and revision of a key, that a server understands."""


# ParamType is generic in some versions of click only.
class Number(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A whole number within bounds.

    Args:
        least: The smallest allowed number.
        most: The largest allowed number; None sets no bound.
    """

    name = "number"

    def __init__(self, least: int, most: int | None = None) -> None:
        self._least = least
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number, or fail with one line."""
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{shown(str(value))!r} is not a whole number", param, ctx)
        if number < self._least or (self._most is not None and number > self._most):
            allowed = f"{self._least} or more" if self._most is None else f"from {self._least} to {self._most}"
            self.fail(f"{shown(str(value))} must be {allowed}", param, ctx)
        return number


class VoName(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """The name of a VO."""

    name = "vo"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name, or fail with one line."""
        try:
            check_vo(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return str(value)


class _ShownVariable(click.RichOption):
    """Shows its variable in the help, but does not read it.

    `ConnectionSettings.resolve` reads the variables: an option beats a variable, whichever credentials they carry.
    """

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        return None

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """Refuse an empty text, as of a variable of the shell that is not set: it would mean another server."""
        if value == "":
            raise click.BadParameter("it is empty; leave the option out, or give a value", ctx=ctx, param=self)
        return super().process_value(ctx, value)


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
    "--nats-url", "url", "NATS_URL", "URL[,URL]", "The URLs of the servers; nats://127.0.0.1:4222 by default."
)
_context_option: Final = _server_option("--context", "context", "CONTEXT", "NAME", "A context of the nats command.")
_CREDENTIAL_OPTIONS: Final = {
    "creds": _server_option("--creds", "creds", "CREDS", "FILE", "A .creds file with user JWT and seed."),
    "nkey": _server_option("--nkey", "nkey", "NKEY", "FILE", "A file with an nkey seed."),
    "user": _server_option("--user", "user", "USER", "NAME", "The user name. Set the password by its variable."),
    "password": _server_option(
        "--password", "password", "PASSWORD", "TEXT", "The password; other users may see the option."
    ),
    "token": _server_option("--token", "token", "TOKEN", "TEXT", "The token; other users may see the option."),
    "tls_ca": _server_option("--tls-ca", "tls_ca", "TLS_CA", "FILE", "The CA certificates that verify the server."),
    "tls_cert": _server_option("--tls-cert", "tls_cert", "TLS_CERT", "FILE", "The client certificate."),
    "tls_key": _server_option("--tls-key", "tls_key", "TLS_KEY", "FILE", "The key of the client certificate."),
    "js_domain": _server_option("--js-domain", "js_domain", "JS_DOMAIN", "NAME", "The JetStream domain of the mesh."),
    "api_prefix": _server_option(
        "--js-api-prefix", "api_prefix", "API_PREFIX", "PREFIX", "The prefix under which the JetStream API is imported."
    ),
}

namespace_option: Final = click.option(
    "--namespace",
    metavar="NAME",
    default="diracx",
    show_default=True,
    envvar="DIRACX_TASKS_NAMESPACE",
    show_envvar=True,
    panel=_SERVER_PANEL,
    help="The namespace of the streams: lower case letters, digits and _.",
)


def server_options(command: Command) -> Command:
    """Add the options of the server to a command, which receives them as `access`."""

    @functools.wraps(command)
    def with_access(*, namespace: str, url: str | None, context: str | None, **values: Any) -> Any:
        credentials = {name: values.pop(name) for name in _CREDENTIAL_OPTIONS}
        return command(access=Access(namespace, url, context, credentials), **values)

    decorated: Any = with_access
    for option in reversed([_url_option, _context_option, *_CREDENTIAL_OPTIONS.values(), namespace_option]):
        decorated = option(decorated)
    return cast("Command", decorated)


class _Command(click.RichCommand):
    def get_help(self, ctx: click.Context) -> str:
        return help_page(self, ctx)


def declared(name: str) -> Callable[[Command], click.Command]:
    """Return a decorator that makes a command of a function. Its options show in panels by their attribute `panel`."""
    return click.command(name, cls=_Command)


def runs(module: str, function: str = "command") -> Callable[[Command], Command]:
    """Return a decorator that has a declaration run a function of the module of this name in `commands`.

    The module is imported only then: it brings NATS and more, which takes several times as long as a help page.
    """

    def decorate(declaration: Command) -> Command:
        @functools.wraps(declaration)
        def run(**values: Any) -> Any:
            return getattr(import_module(f"{__package__}.commands.{module}"), function)(**values)

        return run

    return decorate


def complete_tasks(ctx: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Return the names of installed tasks that begin with the typed text, without importing any task."""
    names: list[str] = import_module("diracx.tasks.cli.installed").names_with(typed)
    return names


def task_arguments(command: Command) -> Command:
    """Add the arguments `entry_point`, `args` and `kwargs` to a command; see `arguments.task_from`."""
    for option in (
        click.option("--kwargs", metavar="JSON", help='Fields by name, e.g. \'{"owner_name": "alice"}\'.'),
        click.option("--args", metavar="JSON", help="Fields in their order, e.g. '[\"alice\"]'."),
        click.argument(
            "entry_point",
            metavar="ENTRY_POINT",
            help="The task, <category>:<ClassName>; `tasks` lists them.",
            shell_complete=complete_tasks,
        ),
    ):
        command = option(command)
    return command


def log_option(default: str) -> Callable[[Command], Command]:
    """Return a decorator that adds `--log-level` and `--log-format`, and starts the log.

    Args:
        default: The default level.
    """

    def start(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
        # click reads the two options in the order of the command line. The second one finds both values.
        given = ctx.meta.setdefault(__name__, {})
        given[parameter.name] = value
        if len(given) == 2 and not ctx.resilient_parsing:  # not while a shell completes a word
            import_module("diracx.tasks.cli.logs").start_logging(given["log_level"], given["log_format"])
            import_module("diracx.tasks.installation").report_mixed_installation()
        return value

    def option(flag: str, **settings: Any) -> Callable[[Command], Command]:
        variable = "DIRACX_TASKS_" + flag.removeprefix("--").replace("-", "_").upper()
        shared: dict[str, Any] = {"show_default": True, "show_envvar": True, "expose_value": False, "is_eager": True}
        return click.option(flag, envvar=variable, callback=start, **shared, **settings)

    level = option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
        metavar="LEVEL",
        default=default,
        help="The lowest level that is logged to standard error: debug, info, warning or error.",
    )
    form = option(
        "--log-format",
        type=click.Choice(["text", "json"], case_sensitive=False),
        metavar="FORMAT",
        default="text",
        help="The format of the log: text, or json with one object a line.",
    )
    return lambda command: level(form(command))


json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
