"""The JSON in the folder `nats/` equals the definition in the code."""

from __future__ import annotations

from pathlib import Path

from diracx.tasks.cli.commands.setup import export
from diracx.tasks.plumbing.wire.names import Namespace
from support.paths import NATS_FOLDER as FOLDER


def contents(folder: Path) -> dict[str, str]:
    found = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.json")}
    return {name: text for name, text in found.items() if not name.startswith("grafana/")}  # written by hand


def test_the_folder_nats_equals_the_code(tmp_path: Path) -> None:
    export(Namespace(), 1, tmp_path)
    assert contents(FOLDER) == contents(tmp_path), "write them anew: diracx-task-run setup --export nats"


def test_every_stream_bucket_and_consumer_has_its_file() -> None:
    names = contents(FOLDER)
    assert sorted(name for name in names if name.startswith("streams/")) == [
        "streams/DIRACX_DLQ.json",
        "streams/DIRACX_HISTORY.json",
        "streams/DIRACX_LATER.json",
        "streams/DIRACX_TASKS.json",
        *(f"streams/KV_diracx_{name}.json" for name in ("attempts", "config", "locks", "results")),
    ]
    assert len([name for name in names if name.startswith("consumers/")]) == 9


def test_replicas_and_namespace_reach_the_exported_files(tmp_path: Path) -> None:
    export(Namespace("acme"), 3, tmp_path)
    exported = contents(tmp_path)
    assert '"num_replicas": 3' in exported["streams/ACME_TASKS.json"]
    assert "diracx." not in exported["streams/ACME_TASKS.json"].replace("diracx.tasks", "")
