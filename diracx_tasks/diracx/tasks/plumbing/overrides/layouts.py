"""The configuration of a mesh: one YAML file that overrides settings of tasks and sets limits, in one of two layouts.

Ours has the keys `tasks`, `limits` and `vo_limits`; DiracX's has `common` and `vo-overrides`, which may stand below
`tasks`. Either has `vos`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from diracx.tasks.plumbing.overrides.configuration import Configuration
from diracx.tasks.plumbing.overrides.diracx_layout import DIRACX_KEYS, read_diracx_layout
from diracx.tasks.plumbing.overrides.our_layout import OUR_KEYS, read_our_layout
from diracx.tasks.plumbing.overrides.reading import below, converted, fields, refused
from diracx.tasks.plumbing.overrides.yaml_text import read_yaml
from diracx.tasks.plumbing.wire.names import check_vo

_VOS: Final = "vos"


def parse(text: bytes | str) -> Configuration:
    """Read the YAML of a configuration.

    Raises:
        ConfigurationError: The text is not YAML, is empty, has an unknown key or a bad value, mixes the layouts, or
            names one task in two ways.
    """
    file = fields(read_yaml(text), "", (_VOS, *OUR_KEYS, *DIRACX_KEYS))
    vos = _read_vos(file.pop(_VOS, None))
    found = msgspec.structs.replace(_read(file), vos=vos)
    _refuse_two_names(found)
    return found


def _read(file: dict[str, Any]) -> Configuration:
    if written := _of_diracx(file):
        _refuse_mixture("", written[0], file, DIRACX_KEYS)
        return read_diracx_layout(file, "")
    tasks = file.get("tasks")
    if isinstance(tasks, dict) and (written := _of_diracx(tasks)):
        _refuse_mixture("tasks", written[0], tasks, DIRACX_KEYS)
        _refuse_mixture("", f"tasks.{written[0]}", file, ("tasks",))
        return read_diracx_layout(tasks, "tasks")
    return read_our_layout(file)


def _of_diracx(raw: dict[str, Any]) -> list[str]:
    return [key for key in DIRACX_KEYS if key in raw]


def _refuse_mixture(path: str, first: str, raw: dict[str, Any], allowed: tuple[str, ...]) -> None:
    for key in raw:
        if key not in allowed:
            one, other = below(path, first), below(path, key)
            raise refused(other, f"belongs to another layout of the file than {one}; write all of it in one layout")


def _read_vos(raw: Any) -> tuple[str, ...] | None:
    if raw is None:
        return None
    vos: list[str] = converted(raw, list[str], _VOS)
    for vo in vos:
        try:
            check_vo(vo)
        except ValueError as error:
            raise refused(_VOS, str(error)) from None
    if twice := [vo for vo in vos if vos.count(vo) > 1]:
        raise refused(_VOS, f"{twice[0]!r} stands twice; remove one")
    return tuple(vos)


def _refuse_two_names(configuration: Configuration) -> None:
    """Refuse a task that is written by its full name here and by the name of its class there."""
    paths = configuration.paths_of_tasks
    for name, path in paths.items():
        category, colon, class_name = name.partition(":")
        if colon and class_name in paths:
            raise refused(path, f"the same task as {paths[class_name]}; use one name, {name} or {class_name}")
        if colon and not (category and class_name):
            raise refused(path, f"{name!r} is no name of a task; write <category>:<ClassName>")
