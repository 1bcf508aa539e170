"""The streams, consumers and buckets of a mesh, pinned: the assets on running servers are compared with them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from diracx.tasks.plumbing.jetstream.assets import assets, with_replicas
from diracx.tasks.plumbing.jetstream.topology import differences
from diracx.tasks.plumbing.wire.names import Namespace

GOLDEN = Path(__file__).with_name("golden_assets.json")


def test_every_asset_is_defined_as_pinned() -> None:
    defined = [dataclasses.asdict(asset) for asset in assets(Namespace("diracx"))]
    assert defined == json.loads(GOLDEN.read_text())


def test_a_namespace_is_in_every_name_and_subject_of_its_assets() -> None:
    text = json.dumps([dataclasses.asdict(asset) for asset in assets(Namespace("acme"))])
    ours = GOLDEN.read_text().replace('"diracx.tasks": ', '"<metadata>": ')
    expected = json.dumps(json.loads(ours.replace("diracx", "acme").replace("DIRACX", "ACME")))
    assert text.replace('"diracx.tasks": ', '"<metadata>": ') == expected


def test_replicas_are_asked_for_on_every_stream_and_bucket_but_not_on_queues() -> None:
    wanted = assets(Namespace("diracx"), replicas=3)
    assert {asset.definition.get("num_replicas") for asset in wanted if asset.kind != "consumer"} == {3}
    assert all("num_replicas" not in asset.definition for asset in wanted if asset.kind == "consumer")


def test_thresholds_for_replicas_come_and_go_with_the_replicas() -> None:
    """`nats server check stream` is critical for a stream with one replica that still expects three."""
    three, one = ([with_replicas(asset, number) for asset in assets(Namespace("diracx"), number)] for number in (3, 1))
    for more, fewer in zip(three, one, strict=True):
        assert differences(more, more.definition) == {}
        assert differences(fewer, fewer.definition) == {}
        if more.kind != "consumer":
            kept = differences(fewer, more.definition)["metadata"]
            assert kept == fewer.definition["metadata"]
