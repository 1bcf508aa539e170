"""Which source gives each setting, and whose credentials are used: options, contexts, variables, defaults."""

from __future__ import annotations

import itertools
import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from diracx.tasks.plumbing.jetstream.connection.nats_contexts import write_context
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.connection.sources import dev_context

CREDS = "-----BEGIN NATS USER JWT-----\nx\n------END\n-----BEGIN USER NKEY SEED-----\nx\n------END\n"
SEED = f"S{'A' * 57}"

Context = Callable[..., dict[str, str]]


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """Writes a context of the `nats` command; returns the environment in which it is found."""

    def write(name: str, **content: object) -> dict[str, str]:
        folder = tmp_path / "config" / "nats" / "context"
        folder.mkdir(parents=True, exist_ok=True)
        (file := folder / f"{name}.json").write_text(json.dumps({"description": "", "url": "", **content}))
        file.chmod(0o600)
        return {"XDG_CONFIG_HOME": str(tmp_path / "config"), "HOME": str(tmp_path)}

    return write


def refusal(context: str | None = None, *, environ: dict[str, str], **options: str) -> str:
    """The line with which the settings are refused."""
    with pytest.raises(ValueError, match=r"\w") as caught:
        ConnectionSettings.resolve(context=context, environ=environ, **options)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- which source wins ---

STRONGEST_FIRST = ("option", "named", "variable", "selected")
"""Options; a context that the command line names; variables; a context that a variable names."""


@pytest.mark.parametrize("setting", ["server", "user", "api prefix"])
@pytest.mark.parametrize("given", list(itertools.product((False, True), repeat=4)), ids=str)
def test_the_strongest_source_gives_each_setting_and_no_other_user_is_mixed_in(
    given: tuple[bool, ...], setting: str, context: Context
) -> None:
    sources = [source for source, is_given in zip(STRONGEST_FIRST, given, strict=True) if is_given]

    def values(source: str) -> dict[str, str]:
        if source not in sources:
            return {}
        if setting == "user":
            return {"user": source, "password": f"of-{source}"}
        return {"url": f"nats://{source}"} if setting == "server" else {"api_prefix": f"{source}.API"}

    environ: dict[str, str] = {}
    for source in sources:
        found = values(source)
        if source in ("named", "selected"):
            found = {"jetstream_" * (name == "api_prefix") + name: value for name, value in found.items()}
            environ |= context(source, **found)
    if "selected" in sources:
        environ["DIRACX_TASKS_CONTEXT"] = "selected"
    for name, value in values("variable").items():
        environ["DIRACX_TASKS_" + ("NATS_URL" if name == "url" else name.upper())] = value
    options = values("option")
    named = "named" if "named" in sources else None
    settings = ConnectionSettings.resolve(context=named, environ=environ, url=options.pop("url", None), **options)
    winner = sources[0] if sources else None
    if setting == "server":
        assert settings.servers == (f"nats://{winner}" if winner else "nats://127.0.0.1:4222",)
        assert settings.by_default == (winner is None)
    elif setting == "user":
        assert (settings.user, settings.password) == ((winner, f"of-{winner}") if winner else (None, None))
        origins = {"option": "--user", "variable": "DIRACX_TASKS_USER", None: "", "named": "context named"}
        assert settings.by_default == (winner is None)
        assert settings.access.endswith(origins.get(winner, "context selected") or "(no credentials are given)")
    else:
        assert settings.api_prefix == (f"{winner}.API" if winner else None)


def test_variables_do_not_count_beside_a_context_that_the_command_line_names(context: Context) -> None:
    environ = context("look", user="look", password="s3cret")
    variables = {"NATS_URL": "nats://variable", "TOKEN": "t", "API_PREFIX": "A.API", "TLS_CA": "/nowhere", "USER": "u"}
    environ |= {f"DIRACX_TASKS_{name}": value for name, value in variables.items()}
    settings = ConnectionSettings.resolve(context="look", environ=environ)
    assert (settings.servers, settings.user, settings.token) == (("nats://127.0.0.1:4222",), "look", None)
    assert (settings.api_prefix, settings.tls_ca) == (None, None)
    assert settings.access == "user look, from context look"


def test_variables_complete_a_context_that_a_variable_names(context: Context) -> None:
    environ = context("site", url="nats://site", user="site", password="p", jetstream_domain="hub")
    environ |= {"DIRACX_TASKS_CONTEXT": "site", "DIRACX_TASKS_NATS_URL": "nats://variable"}
    settings = ConnectionSettings.resolve(environ=environ)
    assert (settings.servers, settings.user) == (("nats://variable",), "site")
    assert settings.api_prefix == "$JS.hub.API"


@pytest.mark.parametrize(
    ("environ", "access"),
    [
        ({"USER": "u", "PASSWORD": "p"}, "user u, from DIRACX_TASKS_USER"),
        ({"USER": "u\x1b[1m", "PASSWORD": "p"}, "user 'u\\x1b[1m', from DIRACX_TASKS_USER"),
        ({"TOKEN": "t"}, "the token, from DIRACX_TASKS_TOKEN"),
        ({"NATS_URL": "nats://u%2F:p@a,nats://u%2F:q@b"}, "user u/ in the URL, from DIRACX_TASKS_NATS_URL"),
        ({"NATS_URL": "nats://u:p@a,nats://t@b"}, "the credentials in the URL, from DIRACX_TASKS_NATS_URL"),
        ({}, "nobody (no credentials are given)"),
    ],
)
def test_an_access_names_its_user_and_where_that_comes_from(environ: dict[str, str], access: str) -> None:
    variables = {f"DIRACX_TASKS_{name}": value for name, value in environ.items()}
    assert ConnectionSettings.resolve(environ=variables).access == access


def test_an_access_by_a_file_names_the_file(tmp_path: Path) -> None:
    for name, content, what in (("creds", CREDS, "the credentials"), ("nkey", SEED, "the nkey"), ("tls_cert", "", "")):
        (file := tmp_path / name).write_text(content)
        file.chmod(0o600)
        settings = ConnectionSettings.resolve(environ={}, **{name: str(file)})
        option = f"--{name.replace('_', '-')}"
        assert settings.access == f"{what or 'the certificate'} in {file}, from {option}"


# --- no mixture ---


def test_the_password_of_a_user_on_the_command_line_may_be_a_variable() -> None:
    environ = {"DIRACX_TASKS_PASSWORD": "s3cret"}
    settings = ConnectionSettings.resolve(user="alice", environ=environ)
    assert (settings.user, settings.password) == ("alice", "s3cret")
    environ["DIRACX_TASKS_USER"] = "alice"
    assert ConnectionSettings.resolve(user="alice", environ=environ).password == "s3cret"
    environ["DIRACX_TASKS_USER"] = "bob"
    assert refusal(user="alice", environ=environ) == (
        "--user is given without a password, and DIRACX_TASKS_PASSWORD is for DIRACX_TASKS_USER: give both in one place"
    )


def test_credentials_of_a_weaker_source_are_not_mixed_into_those_of_a_stronger_one() -> None:
    environ = {"DIRACX_TASKS_TOKEN": "t", "DIRACX_TASKS_NATS_URL": "nats://bob:q@host"}
    settings = ConnectionSettings.resolve(user="alice", password="p", environ=environ)
    assert (settings.servers, settings.user, settings.token) == (("nats://host",), "alice", None)


def test_credentials_in_the_url_of_an_option_displace_those_of_the_variables() -> None:
    settings = ConnectionSettings.resolve(url="nats://alice:p@host", environ={"DIRACX_TASKS_TOKEN": "t"})
    assert settings.token is None
    assert settings.access == "user alice in the URL, from --nats-url"


def test_credentials_in_a_url_that_is_not_used_do_not_count() -> None:
    environ = {"DIRACX_TASKS_NATS_URL": "nats://alice:p@elsewhere"}
    settings = ConnectionSettings.resolve(url="nats://here", environ=environ)
    assert (settings.servers, settings.access) == (("nats://here",), "nobody (no credentials are given)")


def test_a_certificate_and_its_key_come_from_one_source(tmp_path: Path) -> None:
    files = {name: str(tmp_path / name) for name in ("cert", "key", "other")}
    for path in files.values():
        Path(path).touch(0o600)
    environ = {"DIRACX_TASKS_TLS_CERT": files["cert"], "DIRACX_TASKS_TLS_KEY": files["key"]}
    settings = ConnectionSettings.resolve(tls_cert=files["other"], environ=environ)
    assert (settings.tls_cert, settings.tls_key) == (files["other"], None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"creds": "f", "user": "u", "password": "s3cret"}, "USER and {}PASSWORD and {}CREDS exclude each other"),
        ({"token": "s3cret", "nkey": "f"}, "TOKEN and {}NKEY exclude each other: give one kind of credentials"),
        ({"token": "s3cret", "password": "s3cret"}, "PASSWORD and {}TOKEN exclude each other"),
        ({"nats_url": "nats://s3cret@h", "user": "u"}, "USER and {}NATS_URL exclude each other"),
        ({"user": "u"}, "USER is given without a password: give both in one place"),
        ({"password": "s3cret"}, "PASSWORD is given without a user"),
        ({"js_domain": "hub", "api_prefix": "A.API"}, "API_PREFIX and {}JS_DOMAIN exclude each other"),
        ({"js_domain": "a b"}, "JS_DOMAIN is no part of a subject"),
        ({"api_prefix": "A.API."}, "API_PREFIX is no part of a subject"),
    ],
)
def test_a_source_that_contradicts_itself_is_refused(given: dict[str, str], words: str) -> None:
    environ = {f"DIRACX_TASKS_{name.upper()}": value for name, value in given.items()}
    prefix = "DIRACX_TASKS_"
    assert refusal(environ=environ).startswith(prefix + words.format(prefix, prefix))
    options = {name.removeprefix("nats_"): value for name, value in given.items()}
    assert refusal(environ={}, **options).startswith("--")


def test_a_context_that_contradicts_itself_is_refused_by_name(context: Context) -> None:
    environ = context("site", user="u", password="s3cret", token="s3cret")
    assert refusal("site", environ=environ).startswith("user and password and token of context site exclude each other")
    environ = context("site", jetstream_domain="hub", jetstream_api_prefix="A.API")
    assert "jetstream_api_prefix and jetstream_domain of context site exclude" in refusal("site", environ=environ)
    environ = context("site", creds="/nowhere")
    assert refusal("site", environ=environ) == "creds of context site: there is no file /nowhere"
    environ = context("site", user="u") | {"DIRACX_TASKS_PASSWORD": "p"}
    assert refusal("site", environ=environ).startswith("user of context site is given without a password: give both")


def test_an_unknown_option_is_a_mistake_of_the_program() -> None:
    with pytest.raises(TypeError, match="unexpected options: passwort"):
        ConnectionSettings.resolve(environ={}, passwort="p")


def test_another_process_gets_the_same_settings_whatever_it_inherits(context: Context) -> None:
    settings = ConnectionSettings(servers=("nats://a", "nats://b"), user="u", password="p", api_prefix="A.API")
    environ = context("site", url="nats://c", token="t")
    inherited = {"DIRACX_TASKS_CONTEXT": "site", "DIRACX_TASKS_TOKEN": "t", "DIRACX_TASKS_JS_DOMAIN": "d"}
    found = ConnectionSettings.resolve(environ=environ | inherited | settings.as_variables())
    assert (found.servers, found.user, found.password) == (settings.servers, "u", "p")
    assert (found.token, found.api_prefix) == (None, "A.API")


# --- contexts of the nats command ---


def test_a_context_gives_every_field_and_its_paths_are_expanded(context: Context, tmp_path: Path) -> None:
    for name in ("me.creds", "ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).write_text(CREDS)
    paths = {"creds": "~/me.creds", "ca": "$SITE/ca.pem", "cert": "${SITE}/cert.pem", "key": "$NONE$SITE/key.pem"}
    others = {"color_scheme": "red", "tls_first": False, "windows_cert_store": "user", "inbox_prefix": "_INBOX_me"}
    environ = context("site", url="nats://a,nats://b", **paths, **others) | {"SITE": str(tmp_path)}
    settings = ConnectionSettings.resolve(environ=environ | {"DIRACX_TASKS_CONTEXT": "site"})
    assert settings.servers == ("nats://a", "nats://b")
    assert settings.inbox_prefix == "_INBOX_me"
    found = (settings.creds, settings.tls_ca, settings.tls_cert, settings.tls_key)
    assert found == tuple(str(tmp_path / name) for name in ("me.creds", "ca.pem", "cert.pem", "key.pem"))


@pytest.mark.parametrize("written", ["$SECRET", "${SECRET}", "pa$$word", "a:b", "x://y", "env:s"])
def test_a_password_with_a_dollar_is_taken_as_it_is(written: str, context: Context) -> None:
    environ = context("site", user="u", password=written) | {"SECRET": "expanded"}
    assert ConnectionSettings.resolve(context="site", environ=environ).password == written


def test_a_password_or_token_may_refer_to_a_variable(context: Context) -> None:
    environ = context("site", user="u", password="env://SECRET") | context("farm", token="ENV://SECRET")
    environ["SECRET"] = "s3cret"
    assert ConnectionSettings.resolve(context="site", environ=environ).password == "s3cret"
    assert ConnectionSettings.resolve(context="farm", environ=environ).token == "s3cret"
    del environ["SECRET"]
    assert "'password' is env://SECRET, and the variable SECRET is not set" in refusal("site", environ=environ)
    environ = context("site", user="u", password="op://vault/s3cret")
    assert "use env://NAME" in refusal("site", environ=environ)


@pytest.mark.parametrize("name", ["nowhere", "../site", ""])
def test_a_context_that_is_missing_is_refused_and_the_ones_there_are_named(name: str, context: Context) -> None:
    environ = context("site") | context("farm") | {"DIRACX_TASKS_CONTEXT": "nowhere"}
    line = refusal(name, environ=environ)
    assert line.startswith("no context '")
    assert line.endswith("there are: farm, site")


def test_without_any_context_that_is_said(tmp_path: Path) -> None:
    assert refusal("site", environ={"HOME": str(tmp_path)}).endswith("; there is none")


def test_a_context_that_is_no_json_is_refused_by_name(context: Context, tmp_path: Path) -> None:
    environ = context("site")
    for text in ("{", "[]", '{"user": '):
        (tmp_path / "config/nats/context/site.json").write_text(text)
        assert "context 'site' cannot be read from " in refusal("site", environ=environ)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"nsc": "nsc://operator/account/user"}, "uses 'nsc', which is not supported"),
        ({"tls_first": True}, "uses 'tls_first', which is not supported"),
        ({"pasword": "s3cret"}, "has the unknown key 'pasword'; known are ca, cert, "),
        ({"user": 7}, "'user' is not a string in "),
        ({"password": ["s3cret"]}, "'password' is not a string in "),
    ],
)
def test_a_context_that_would_be_read_in_part_is_refused(
    content: dict[str, object], words: str, context: Context
) -> None:
    line = refusal("site", environ=context("site", **content))
    assert line.startswith("context 'site'")
    assert words in line


def test_a_context_with_a_password_that_every_user_can_read_is_warned_of(
    context: Context, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    environ = context("site", user="u", password="s3cret")
    (file := tmp_path / "config/nats/context/site.json").chmod(0o644)
    assert ConnectionSettings.resolve(context="site", environ=environ).user == "u"
    assert caplog.messages == [f"{file} holds a secret, and every user of this host can read it: chmod go= {file}"]


# --- the server of `dev` ---


@pytest.mark.parametrize(
    "url", [None, "nats://127.0.0.1:4222", "nats://127.0.0.1", "localhost:4222", "nats://localhost/"]
)
def test_the_server_of_a_dev_of_this_user_is_found_with_its_password(url: str | None, tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    values = {"url": "nats://127.0.0.1:4222", "user": "diracx-dev", "password": "s3cret"}
    file = write_context(dev_context(4222), values, environ)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    settings = ConnectionSettings.resolve(url=url, environ=environ)
    assert (settings.servers, settings.user, settings.password) == (("nats://127.0.0.1:4222",), "diracx-dev", "s3cret")
    assert settings.by_default == (url is None)
    assert settings.access == "user diracx-dev, from the `dev` of this user"
    assert ConnectionSettings.resolve(context=dev_context(4222), environ=environ).user == "diracx-dev"


@pytest.mark.parametrize(
    "options",
    [
        {"url": "nats://127.0.0.1:4223"},
        {"url": "tls://127.0.0.1"},
        {"url": "nats://elsewhere"},
        {"url": "nats://127.0.0.1,nats://elsewhere"},
        {"token": "mine"},
    ],
)
def test_its_password_goes_to_no_other_server_and_beside_no_other_credentials(
    options: dict[str, str], tmp_path: Path
) -> None:
    environ = {"HOME": str(tmp_path)}
    write_context(dev_context(4222), {"url": "nats://127.0.0.1:4222", "user": "u", "password": "s3cret"}, environ)
    assert ConnectionSettings.resolve(environ=environ, **options).user is None


def test_a_file_of_a_dev_that_cannot_be_read_is_as_none(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    write_context(dev_context(4222), {"url": "nats://127.0.0.1:4222", "token": "t"}, environ)
    assert ConnectionSettings.resolve(environ=environ).token is None
    assert ConnectionSettings.resolve(environ={}).token is None


def test_a_context_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    (folder := tmp_path / "nats/context").mkdir(parents=True)
    (folder / "site.json").mkdir()
    with pytest.raises(OSError, match="site"):
        write_context("site", {}, environ)
    assert [each.name for each in folder.iterdir()] == ["site.json"]
