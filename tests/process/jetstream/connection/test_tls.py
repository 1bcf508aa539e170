"""The server of `nats/` with its `tls.conf`: who knows its authority comes in, who does not is refused in one line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from support.certificates import Authority
from support.command_line import CommandLine
from support.paths import NATS_FOLDER as FOLDER
from support.secured import password, secured_server

NAMESPACE = "diracx"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"), "ours")


@pytest.fixture(scope="module")
def encrypted(authority: Authority) -> Iterator[EmbeddedServer]:
    certificate, key = authority.server()
    variables = {"NATS_TLS_CERT": str(certificate), "NATS_TLS_KEY": str(key)}
    tls = (FOLDER / "tls.conf").read_text()
    with mock.patch.dict(os.environ, variables), secured_server(NAMESPACE, tls=tls) as server:
        yield server


@pytest.fixture
def operator(bare: CommandLine, encrypted: EmbeddedServer) -> CommandLine:
    bare.environment |= {
        "DIRACX_TASKS_NATS_URL": encrypted.url,
        "DIRACX_TASKS_NAMESPACE": NAMESPACE,
        "DIRACX_TASKS_USER": f"{NAMESPACE}-operator",
        "DIRACX_TASKS_PASSWORD": password(NAMESPACE, "operator"),
    }
    return bare


def test_who_knows_the_authority_comes_in(operator: CommandLine, authority: Authority) -> None:
    done = operator("setup", "--tls-ca", str(authority.ca))
    assert done.returncode == 0, done.stderr
    done = operator("dlq", "list", DIRACX_TASKS_TLS_CA=str(authority.ca))
    assert (done.returncode, done.stderr) == (0, "no dead letters\n")


@pytest.mark.parametrize("known", ["another authority", "those of the system"])
def test_an_unknown_authority_is_refused_in_one_line(operator: CommandLine, tmp_path: Path, known: str) -> None:
    arguments = ("--tls-ca", str(Authority(tmp_path, "theirs").ca)) if known == "another authority" else ()
    done = operator("setup", *arguments, "--log-level", "debug")
    assert done.returncode == 69
    (line,) = (line for line in done.stderr.splitlines() if " DEBUG " not in line)
    assert "TLS failed" in line
    assert "certificate verify failed" in line
    assert password(NAMESPACE, "operator") not in done.stdout + done.stderr


def test_a_server_of_an_unknown_authority_does_not_keep_from_the_next_one(
    operator: CommandLine, authority: Authority, encrypted: EmbeddedServer, tmp_path: Path
) -> None:
    certificate, key = Authority(tmp_path, "theirs").server()
    tls = (FOLDER / "tls.conf").read_text()
    variables = {"NATS_TLS_CERT": str(certificate), "NATS_TLS_KEY": str(key)}
    with mock.patch.dict(os.environ, variables), secured_server(NAMESPACE, tls=tls) as impostor:
        for _ in range(3):  # they are tried in random order
            urls = f"{impostor.url},{encrypted.url}"
            done = operator("setup", "--nats-url", urls, "--tls-ca", str(authority.ca))
            assert done.returncode == 0, done.stderr
