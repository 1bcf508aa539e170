"""The servers and the credentials, from options, environment, contexts of the `nats` command and defaults."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from rich.pretty import pretty_repr

from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings

CREDS = "-----BEGIN NATS USER JWT-----\nx\n------END\n-----BEGIN USER NKEY SEED-----\nx\n------END\n"
SEED = f"S{'A' * 57}"

Context = Callable[..., dict[str, str]]


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """Writes a context of the `nats` command; returns the environment in which it is found."""

    def write(name: str, **content: object) -> dict[str, str]:
        folder = tmp_path / "config" / "nats" / "context"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps({"description": "", "url": "", **content}))
        return {"XDG_CONFIG_HOME": str(tmp_path / "config"), "HOME": str(tmp_path)}

    return write


def test_with_nothing_given_the_server_is_the_one_on_this_machine() -> None:
    assert ConnectionSettings.resolve(environ={}) == ConnectionSettings(servers=("nats://127.0.0.1:4222",))


def test_a_list_of_urls_may_have_blanks_and_omit_the_scheme() -> None:
    settings = ConnectionSettings.resolve(url="nats://a:1, b:2 ,tls://c", environ={})
    assert settings.servers == ("nats://a:1", "nats://b:2", "tls://c")


@pytest.mark.parametrize(
    ("variable", "field", "value"),
    [("USER", "user", "alice"), ("PASSWORD", "password", "s3cret"), ("TOKEN", "token", "t0ken")],
)
def test_the_environment_gives_what_no_option_gives(variable: str, field: str, value: str) -> None:
    settings = ConnectionSettings.resolve(environ={f"DIRACX_TASKS_{variable}": value})
    assert getattr(settings, field) == value


def test_every_path_can_come_from_the_environment(tmp_path: Path) -> None:
    names = ("creds", "nkey", "tls_ca", "tls_cert", "tls_key")
    files = {name: tmp_path / name for name in names}
    for name, file in files.items():
        file.write_text(SEED if name == "nkey" else CREDS)
    settings = ConnectionSettings.resolve(environ={f"DIRACX_TASKS_{name.upper()}": str(files[name]) for name in names})
    assert [getattr(settings, name) for name in names] == [str(files[name]) for name in names]


def test_an_option_wins_over_the_environment_and_the_environment_over_a_context(context: Context) -> None:
    environ = context("site", url="nats://context:1", user="context", password="context")
    environ |= {"DIRACX_TASKS_NATS_URL": "nats://environment:1", "DIRACX_TASKS_USER": "environment"}
    settings = ConnectionSettings.resolve(url="nats://option:1", context="site", environ=environ)
    assert settings == ConnectionSettings(servers=("nats://option:1",), user="environment", password="context")


def test_credentials_of_a_weaker_source_are_not_mixed_into_those_of_a_stronger_one() -> None:
    settings = ConnectionSettings.resolve(user="alice", password="p", environ={"DIRACX_TASKS_TOKEN": "t"})
    assert (settings.user, settings.token) == ("alice", None)


def test_credentials_in_the_url_of_an_option_displace_those_of_the_environment() -> None:
    settings = ConnectionSettings.resolve(url="nats://alice:p@host", environ={"DIRACX_TASKS_TOKEN": "t"})
    assert settings.token is None


def test_a_context_gives_every_field_and_its_paths_may_start_at_home(context: Context, tmp_path: Path) -> None:
    (tmp_path / "me.creds").write_text(CREDS)
    (tmp_path / "ca.pem").write_text("ca")
    environ = context("site", url="nats://a,nats://b", creds="~/me.creds", ca="~/ca.pem", inbox_prefix="_INBOX_me")
    settings = ConnectionSettings.resolve(environ=environ | {"DIRACX_TASKS_CONTEXT": "site"})
    assert settings == ConnectionSettings(
        servers=("nats://a", "nats://b"),
        creds=str(tmp_path / "me.creds"),
        tls_ca=str(tmp_path / "ca.pem"),
        inbox_prefix="_INBOX_me",
    )


def test_a_context_and_a_variable_give_the_prefix_of_a_borrowed_api(context: Context) -> None:
    environ = context("site", jetstream_api_prefix="DIRACX.API")
    assert ConnectionSettings.resolve(context="site", environ=environ).api_prefix == "DIRACX.API"
    environ["DIRACX_TASKS_API_PREFIX"] = "ACME.API"
    assert ConnectionSettings.resolve(context="site", environ=environ).api_prefix == "ACME.API"


@pytest.mark.parametrize("name", ["nowhere", "../site", ""])
def test_a_context_that_is_missing_is_refused_and_the_ones_there_are_named(name: str, context: Context) -> None:
    environ = context("site") | context("farm") | {"DIRACX_TASKS_CONTEXT": "nowhere"}
    with pytest.raises(ValueError, match=r"no context '.*there are: farm, site$"):
        ConnectionSettings.resolve(context=name, environ=environ)


def test_a_context_that_is_no_json_is_refused_by_name(context: Context, tmp_path: Path) -> None:
    environ = context("site")
    (tmp_path / "config/nats/context/site.json").write_text("{")
    with pytest.raises(ValueError, match=r"context 'site' cannot be read from .*site\.json"):
        ConnectionSettings.resolve(context="site", environ=environ)


def test_a_context_that_logs_in_by_nsc_is_refused_rather_than_read_in_part(context: Context) -> None:
    environ = context("site", nsc="nsc://operator/account/user")
    with pytest.raises(ValueError, match="context 'site' uses 'nsc', which is not supported"):
        ConnectionSettings.resolve(context="site", environ=environ)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://u:s3cret@host", "scheme"),
        ("nats://u:s3cret@", "no host"),
        ("nats://u:s3cret@host:port", "malformed"),
        ("nats://u:s3cret@[::1", "malformed"),
        ("nats://u:s3cret@host,wss://u:s3cret@host", "cannot mix"),
        (" , ", "no server URL"),
    ],
)
def test_a_bad_url_is_refused_with_the_reason_and_without_its_password(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        ConnectionSettings.resolve(url=url, environ={})
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["creds", "nkey", "tls_ca", "tls_cert", "tls_key"])
def test_a_file_that_is_missing_is_refused_by_field_and_path(field: str, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(ValueError, match=f"{field}: there is no file {missing}"):
        ConnectionSettings.resolve(environ={}, **{field: str(missing)})


def test_a_creds_file_without_its_two_sections_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "me.creds"
    file.write_text("-----BEGIN NATS USER JWT-----\n")
    with pytest.raises(ValueError, match=r"me\.creds is no \.creds file"):
        ConnectionSettings.resolve(creds=str(file), environ={})


def test_a_file_without_an_nkey_seed_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "me.nk"
    file.write_text(f"{SEED}\n")
    assert ConnectionSettings.resolve(nkey=str(file), environ={}).nkey == str(file)
    file.write_text("s3cret")
    with pytest.raises(ValueError, match=r"me\.nk is no file with an nkey seed") as caught:
        ConnectionSettings.resolve(nkey=str(file), environ={})
    assert "s3cret" not in str(caught.value)


def test_a_tls_key_without_its_certificate_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text("")
    with pytest.raises(ValueError, match=r"tls_key .*key\.pem is given without tls_cert"):
        ConnectionSettings.resolve(tls_key=str(file), environ={})


def test_tls_files_that_hold_no_certificate_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("nothing")
    settings = ConnectionSettings.resolve(tls_ca=str(file), environ={})
    with pytest.raises(ValueError, match=r"TLS cannot be set up from .*ca\.pem"):
        settings.tls_context()


def test_without_tls_files_there_is_no_tls_context_of_ours() -> None:
    assert ConnectionSettings().tls_context() is None


def test_no_representation_shows_a_secret() -> None:
    settings = ConnectionSettings(
        servers=("nats://u:url-secret@host", "nats://url-token@host"), password="p-secret", token="t-secret"
    )
    shown = io.StringIO()
    print(repr(settings), str(settings), pretty_repr(settings), settings.redacted(), file=shown)
    assert "nats://***@host" in shown.getvalue()
    for secret in ("url-secret", "url-token", "p-secret", "t-secret"):
        assert secret not in shown.getvalue()
        assert settings.redact(f"a {secret} b") == "a *** b"


def test_settings_do_not_change_once_made() -> None:
    with pytest.raises(AttributeError):
        ConnectionSettings().token = "t"  # type: ignore[misc]
    assert msgspec.structs.replace(ConnectionSettings(), token="t").token == "t"
