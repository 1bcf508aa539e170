"""The settings of a connection: their checks, and that they show no secret. `test_sources` has where they come from."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
from rich.pretty import pretty_repr

from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings

CREDS = "-----BEGIN NATS USER JWT-----\nx\n------END\n-----BEGIN USER NKEY SEED-----\nx\n------END\n"
SEED = f"S{'A' * 57}"


def test_with_nothing_given_the_server_is_the_one_on_this_machine() -> None:
    settings = ConnectionSettings.resolve(environ={})
    assert settings.servers == ("nats://127.0.0.1:4222",)
    assert settings.by_default


def test_a_list_of_urls_may_have_blanks_and_omit_the_scheme() -> None:
    settings = ConnectionSettings.resolve(url="nats://a:1, b:2 ,tls://c", environ={})
    assert settings.servers == ("nats://a:1", "nats://b:2", "tls://c")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://u:s3cret@host", "scheme"),
        ("nats://u:s3cret@", "no host"),
        ("nats://u:s3cret@host:port", "malformed"),
        ("nats://u:s3cret@[::1", "malformed"),
        ("nats://u:s3cret", "malformed"),
        ("nats://u:s3c[ret@host", "malformed"),
        ("nats://u:s3/cret@host", "malformed"),
        ("nats://s3/cret@host", "as %2F"),
        ("nats://s3#cret@host", "%23"),
        ("nats://u:s3?cret@host", "malformed"),
        ("nats://s3,cret@host", "a comma in a password as %2C"),
        ("nats://u:s3,cret@host", "a comma in a password as %2C"),
        ("nats://u:s3cret%@host", "as %25"),
        ("nats://u:s3cret%zz@host", "as %25"),
        ("nats://u:s3cret%ff@host", "not UTF-8"),
        ("nats://u:s3\tcret@host", "control character"),
        ("nats://u:s3cret@my host", "has a space"),
        ("nats://u:s3cret@host:0", "port is 0"),
        ("nats://u:s3cret@host:65536", "malformed"),
        ("nats://u:s3cret@host?tls=true", "goes on after"),
        ("u:s3cret://x@host", "malformed"),
        ("nats://u:s3cret@host,wss://u:s3cret@host", "cannot mix"),
        (" , ", "no server URL"),
    ],
)
def test_a_bad_url_is_refused_with_the_reason_and_without_its_password(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        ConnectionSettings.resolve(url=url, environ={})
    assert not {part for part in ("s3", "cret") if part in str(caught.value)}
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("field", ["creds", "nkey", "tls_ca", "tls_cert", "tls_key"])
def test_a_file_that_is_missing_is_refused_by_field_and_path(field: str, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(ValueError, match=f"--{field.replace('_', '-')}: there is no file {missing}"):
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
    with pytest.raises(ValueError, match=r"--tls-key .*key\.pem is given without its certificate"):
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


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_a_secret_that_every_user_of_the_host_can_read_is_warned_of(
    mode: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (file := tmp_path / "me.creds").write_text(CREDS)
    file.chmod(mode)
    ConnectionSettings.resolve(creds=str(file), environ={})
    assert [record.message for record in caplog.records] == (
        [f"{file} holds a secret, and every user of this host can read it: chmod go= {file}"] if mode & 4 else []
    )


def test_settings_do_not_change_once_made() -> None:
    with pytest.raises(AttributeError):
        ConnectionSettings().token = "t"  # type: ignore[misc]
    assert msgspec.structs.replace(ConnectionSettings(), token="t").token == "t"
