"""Contexts of the `nats` command: named files that hold a server and credentials.

Source: `natscontext` of github.com/nats-io/jsm.go; files `$XDG_CONFIG_HOME/nats/context/<name>.json`. A context means
here what it means there: paths may start with `~` and hold `$VARIABLE`, and a password or token `env://NAME` is the
value of that variable. Any other password is taken as it is written, also one with a `$`.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

PATH_KEYS: Final = {"creds": "creds", "nkey": "nkey", "ca": "tls_ca", "cert": "tls_cert", "key": "tls_key"}
SECRET_KEYS: Final = ("password", "token")
TEXT_KEYS: Final = {
    **{key: key for key in ("url", "user", *SECRET_KEYS, "inbox_prefix")},
    "jetstream_api_prefix": "api_prefix",
    "jetstream_domain": "js_domain",
}
# nats-py does not support these. If they were ignored, the failure would look like bad credentials.
UNSUPPORTED_KEYS: Final = ("nsc", "user_jwt", "user_seed", "socks_proxy", "tls_first")
# What they set does not concern this client: a name, colours, the subjects of advisories, stores of Windows.
IGNORED_KEYS: Final = frozenset({"name", "description", "color_scheme", "jetstream_event_prefix"})
_WINDOWS: Final = "windows_"

# As Go's `os.ExpandEnv`: a variable that is not set is empty.
_VARIABLE: Final = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_REFERENCE: Final = re.compile(r"(?:(env)|file|op|nsc)://|data:", re.IGNORECASE)

logger = logging.getLogger("diracx.tasks.jetstream")


def load_context(name: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Read one context. The keys are the options of `ConnectionSettings.resolve`; empty values are left out.

    Raises:
        ValueError: The context is missing (the text names those that exist), unreadable, or has a key that this client
            does not know or support. The text is one line and shows no secret.
    """
    directory = _directory(environ)
    path = directory / f"{name}.json"
    if not name or "/" in name or ".." in name or not path.is_file():
        known = sorted(file.stem for file in directory.glob("*.json"))
        there = f"there are: {', '.join(known)}" if known else "there is none"
        raise ValueError(f"no context {name!r} of the nats command in {directory}; {there}")
    try:
        content = msgspec.json.decode(path.read_bytes(), type=dict[str, object])
    except (OSError, msgspec.MsgspecError) as error:
        raise ValueError(f"context {name!r} cannot be read from {path}: {error}") from error
    given = {key: value for key, value in content.items() if value}
    _check_keys(name, given)
    values: dict[str, str] = {}
    for key in given.keys() & (PATH_KEYS.keys() | TEXT_KEYS.keys()):
        value = given[key]
        if not isinstance(value, str):
            raise ValueError(f"context {name!r}: {key!r} is not a string in {path}")
        if key in SECRET_KEYS:
            value = _secret(name, key, value, environ)
        values[{**TEXT_KEYS, **PATH_KEYS}[key]] = _expanded(value, environ) if key in PATH_KEYS else value
    if given.keys() & set(SECRET_KEYS):
        warn_if_shared(path)
    return values


def _check_keys(name: str, given: Mapping[str, object]) -> None:
    for key in UNSUPPORTED_KEYS:
        if key in given:
            raise ValueError(f"context {name!r} uses {key!r}, which is not supported; use creds, nkey or token")
    known = {*PATH_KEYS, *TEXT_KEYS, *IGNORED_KEYS}
    unknown = sorted(key for key in given if key not in known and not key.startswith(_WINDOWS))
    if unknown:
        raise ValueError(f"context {name!r} has the unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")


def _secret(name: str, key: str, value: str, environ: Mapping[str, str]) -> str:
    match = _REFERENCE.match(value)
    if match is None:
        return value
    if match[1] is None:
        raise ValueError(f"context {name!r}: {key!r} is a reference of a kind that is not supported; use env://NAME")
    variable = value[match.end() :]
    if not environ.get(variable):
        raise ValueError(f"context {name!r}: {key!r} is {value}, and the variable {variable} is not set")
    return environ[variable]


def warn_if_shared(path: Path) -> None:
    """Log a warning if a file with a secret belongs to this user, and every user of the host can read it."""
    status = path.stat()
    if status.st_uid == os.geteuid() and status.st_mode & stat.S_IROTH:
        logger.warning("%s holds a secret, and every user of this host can read it: chmod go= %s", path, path)


def write_context(name: str, values: Mapping[str, str], environ: Mapping[str, str]) -> Path:
    """Write a context that only this user can read; return its file. One that is there already is replaced.

    Raises:
        OSError: The file cannot be written.
    """
    path = _directory(environ) / f"{name}.json"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    written = path.with_name(f".{name}.{secrets.token_hex(4)}")
    try:
        # Others see neither a half of the file, nor the whole of it for a moment.
        with open(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(values), indent=2))
        written.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            written.unlink()
        raise
    return path


def _directory(environ: Mapping[str, str]) -> Path:
    configured = environ.get("XDG_CONFIG_HOME")
    return (Path(configured) if configured else Path(_home(environ), ".config")) / "nats" / "context"


def _home(environ: Mapping[str, str]) -> str:
    return environ.get("HOME") or str(Path.home())


def _expanded(path: str, environ: Mapping[str, str]) -> str:
    path = _VARIABLE.sub(lambda match: environ.get(match[1] or match[2], ""), path)
    return str(Path(_home(environ), path[2:])) if path.startswith("~/") else path
