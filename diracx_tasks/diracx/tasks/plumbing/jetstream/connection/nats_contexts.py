"""Contexts of the `nats` command: named files that hold a server and credentials.

Source: `natscontext` of github.com/nats-io/jsm.go; files `$XDG_CONFIG_HOME/nats/context/<name>.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

PATH_KEYS = {"creds": "creds", "nkey": "nkey", "ca": "tls_ca", "cert": "tls_cert", "key": "tls_key"}
TEXT_KEYS = {
    **{key: key for key in ("url", "user", "password", "token", "inbox_prefix")},
    "jetstream_api_prefix": "api_prefix",
}
# nats-py does not support these. If they were ignored, the failure would look like bad credentials.
UNSUPPORTED_KEYS = ("nsc", "user_jwt", "user_seed", "socks_proxy")


def load_context(name: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Read one context. The keys are the options of `ConnectionSettings.resolve`; empty values are left out.

    Raises:
        ValueError: The context is missing (the text names those that exist), unreadable, or uses an unsupported key.
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
    for key in UNSUPPORTED_KEYS:
        if content.get(key):
            raise ValueError(f"context {name!r} uses {key!r}, which is not supported; use creds, nkey or token")
    texts = {ours: _text(content, key, path) for key, ours in TEXT_KEYS.items() if content.get(key)}
    paths = {ours: _text(content, key, path) for key, ours in PATH_KEYS.items() if content.get(key)}
    return texts | {ours: _expanded(value, environ) for ours, value in paths.items()}


def _directory(environ: Mapping[str, str]) -> Path:
    configured = environ.get("XDG_CONFIG_HOME")
    return (Path(configured) if configured else Path(_home(environ), ".config")) / "nats" / "context"


def _home(environ: Mapping[str, str]) -> str:
    return environ.get("HOME") or str(Path.home())


def _expanded(path: str, environ: Mapping[str, str]) -> str:
    return str(Path(_home(environ), path[2:])) if path.startswith("~/") else path


def _text(content: Mapping[str, object], key: str, path: Path) -> str:
    value = content[key]
    if not isinstance(value, str):
        raise ValueError(f"{path}: {key!r} is not a string")
    return value
