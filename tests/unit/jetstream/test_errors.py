"""The texts of errors say what to do next, where the server's own words do not."""

from __future__ import annotations

from diracx.tasks.plumbing.jetstream.errors import INSUFFICIENT_RESOURCES, ApiError


def test_a_server_without_room_for_jetstream_is_named_with_what_mends_it() -> None:
    full = ApiError(503, INSUFFICIENT_RESOURCES, "insufficient resources")
    assert str(full).startswith("JetStream says: insufficient resources (code 503, err_code 10023): ")
    assert "raise max_file_store" in str(full)
    assert str(ApiError(404, 10059, "stream not found")) == (
        "JetStream says: stream not found (code 404, err_code 10059)"
    )
