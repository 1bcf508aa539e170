"""The configuration of a mesh: one YAML file that overrides settings of tasks and sets limits, in one of two layouts.

Ours has the keys `tasks`, `limits` and `vo_limits`; DiracX's has `common` and `vo-overrides`, which may stand below
`tasks`. Either has `vos`.
"""

from __future__ import annotations

from typing import Any

from diracx.tasks.plumbing.overrides.configuration import Configuration
from diracx.tasks.plumbing.overrides.diracx_layout import DIRACX_KEYS, read_diracx_layout
from diracx.tasks.plumbing.overrides.our_layout import OUR_KEYS, read_our_layout
from diracx.tasks.plumbing.overrides.reading import below, fields, refused
from diracx.tasks.plumbing.overrides.yaml_text import read_yaml


def parse(text: bytes | str) -> Configuration:
    """Read the YAML of a configuration.

    Raises:
        ConfigurationError: The text is not YAML, is empty, has an unknown key or a bad value, or mixes the layouts.
    """
    file = fields(read_yaml(text), "", (*OUR_KEYS, *DIRACX_KEYS))
    vos = file.get("vos")
    if written := _of_diracx(file):
        _refuse_mixture("", written[0], file, (*DIRACX_KEYS, "vos"))
        return read_diracx_layout({key: file[key] for key in written}, "", vos)
    tasks = file.get("tasks")
    if isinstance(tasks, dict) and (written := _of_diracx(tasks)):
        _refuse_mixture("tasks", written[0], tasks, DIRACX_KEYS)
        _refuse_mixture("", f"tasks.{written[0]}", file, ("tasks", "vos"))
        return read_diracx_layout(tasks, "tasks", vos)
    return read_our_layout(file)


def _of_diracx(raw: dict[str, Any]) -> list[str]:
    return [key for key in DIRACX_KEYS if key in raw]


def _refuse_mixture(path: str, first: str, raw: dict[str, Any], allowed: tuple[str, ...]) -> None:
    for key in raw:
        if key not in allowed:
            one, other = below(path, first), below(path, key)
            raise refused(other, f"belongs to another layout of the file than {one}; write all of it in one layout")
