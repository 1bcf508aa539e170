"""The commands that pages show are those for this mesh, wherever an operator pastes them."""

from __future__ import annotations

import html
import re

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.wire.names import Namespace
from support.dashboards import signed_in


async def test_a_command_names_the_namespace_of_another_mesh_than_the_default(
    connection: Connection, topology: Namespace
) -> None:
    async with signed_in(connection, topology) as site:
        pages = [await site.text(path) for path in ("/", "/dead-letters", "/configuration")]
    found = [html.unescape(each) for page in pages for each in re.findall(r'<code class="command">([^<]*)<', page)]
    assert {each.split()[1] for each in found} == {"worker", "scheduler", "dlq", "config"}
    assert [each for each in found if not each.endswith(f" --namespace {topology.name}")] == []
