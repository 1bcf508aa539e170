"""The YAML of a configuration as mappings, lists and plain values; stricter than YAML where YAML loses what was meant.

* A key that stands twice in one mapping is refused. YAML parsers keep the last one without a word.
* Every key is its text as written: `12345` and `"12345"` are one key, and `on` or `2026-01-01` stay what they are.
* A key has printable characters only, since it is part of the paths in errors and logs.
* Aliases (`*name`) and merges (`<<`) work. A value inside itself, and values that aliases multiply beyond
  `MAX_VALUES`, are refused, since a follower in every process of the mesh would choke on them.
"""

from __future__ import annotations

from typing import Any, Final

import yaml

from diracx.tasks.plumbing.overrides.configuration import ConfigurationError
from diracx.tasks.plumbing.overrides.reading import below, refused

MAX_VALUES: Final = 200_000
"""The largest number of keys and values, each alias counted as what it stands for."""

_TEXT: Final = "tag:yaml.org,2002:str"
_MERGE: Final = "tag:yaml.org,2002:merge"
_Loader: Final[type[yaml.SafeLoader]] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C is ten times faster, and is missing where PyYAML was built without libyaml."""


def read_yaml(text: bytes | str) -> Any:
    """Read one YAML document.

    Raises:
        ConfigurationError: It is not YAML, is empty, or breaks a rule of this module. The text names the line.
    """
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            found = None if root is None else _construct(loader, root)
        finally:
            loader.dispose()
    except RecursionError:
        raise ConfigurationError("the configuration is nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise ConfigurationError(f"the configuration is not YAML: {where}{error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:  # a ValueError: bytes that are no text, a date that is none
        raise ConfigurationError(f"the configuration is not YAML: {' '.join(str(error).split())}") from None
    if found is None:
        raise ConfigurationError("the configuration is empty; write `{}` to remove all settings")
    return found


def _construct(loader: yaml.SafeLoader, root: yaml.Node) -> Any:
    _Checker().check(root, "")
    return loader.construct_document(root)


class _Checker:
    """Checks the nodes of one document, and turns their keys into texts."""

    def __init__(self) -> None:
        self._size: dict[int, int] = {}
        """The number of keys and values of a checked node, by its `id`."""
        self._open: set[int] = set()
        """The nodes that are being checked: those around the present one."""

    def check(self, node: yaml.Node, path: str) -> int:
        """Check a node and all below it; return the number of its keys and values."""
        if id(node) in self._open:
            raise _refused(path, "the value contains itself through an alias", node)
        if id(node) not in self._size:
            self._open.add(id(node))
            self._size[id(node)] = size = 1 + self._below(node, path)
            self._open.remove(id(node))
            if size > MAX_VALUES:
                raise _refused(path, f"more than {MAX_VALUES} values, counted with their aliases", node)
        return self._size[id(node)]

    def _below(self, node: yaml.Node, path: str) -> int:
        if isinstance(node, yaml.MappingNode):
            _keys_as_texts(node, path)
            return sum(1 + self.check(value, below(path, key.value)) for key, value in node.value)
        if isinstance(node, yaml.SequenceNode):
            return sum(self.check(value, f"{path}[{index}]") for index, value in enumerate(node.value))
        return 0


def _keys_as_texts(node: yaml.MappingNode, path: str) -> None:
    first: dict[str, yaml.Node] = {}
    for index, (key, value) in enumerate(node.value):
        if not isinstance(key, yaml.ScalarNode):
            raise _refused(path, "a key must be a text", key)
        if key.tag == _MERGE:
            continue
        if not key.value.isprintable():
            raise _refused(path, f"the key {key.value!r} has a character that cannot be printed", key)
        if key.value in first:
            lines = f"{first[key.value].start_mark.line + 1} and {key.start_mark.line + 1}"
            raise refused(below(path, key.value), f"the key stands twice, on lines {lines}; remove one")
        first[key.value] = key
        # A new node, since an alias may use the old one as a value.
        node.value[index] = (yaml.ScalarNode(_TEXT, key.value, key.start_mark, key.end_mark), value)


def _refused(path: str, problem: str, node: yaml.Node) -> ConfigurationError:
    return refused(path, f"{problem} (line {node.start_mark.line + 1})")
