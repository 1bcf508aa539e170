"""The configuration of a mesh: one YAML file that overrides settings of tasks and sets limits."""

from __future__ import annotations

from diracx.tasks.plumbing.overrides.configuration import Configuration
from diracx.tasks.plumbing.overrides.our_layout import read_our_layout
from diracx.tasks.plumbing.overrides.yaml_text import read_yaml


def parse(text: bytes | str) -> Configuration:
    """Read the YAML of a configuration.

    Raises:
        ConfigurationError: The text is not YAML, is empty, or has an unknown key or a bad value.
    """
    return read_our_layout(read_yaml(text))
