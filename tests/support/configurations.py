"""Configurations of DiracX in a git repository."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import git

CONFIGURATION = """
DIRAC: {}
Operations: {}
Registry:
  acme:
    IdP: {URL: "https://idp.example.org", ClientID: acme}
    DefaultGroup: users
    Users: {}
    Groups: {}
"""


def commit_configuration(repository: Path, configuration: str = CONFIGURATION) -> str:
    """Commit a configuration; return the URL for `DIRACX_CONFIG_BACKEND_URL`."""
    with closing(git.Repo.init(repository, initial_branch="master")) as opened:
        (repository / "default.yml").write_text(configuration)
        opened.index.add(["default.yml"])
        opened.index.commit("all of it")
    return f"git+file://{repository}"
