"""Requests to a real nats-server: replies, refusals and error codes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from diracx.tasks.plumbing.background import uncancelled_here
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream import errors
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.client import MANY_COMMANDS
from support.connecting import NEVER, connect


async def test_a_request_that_nobody_serves_says_so_and_one_that_nobody_answers_times_out(
    server: EmbeddedServer, namespace: str
) -> None:
    async with connect(server) as connection:
        with pytest.raises(errors.NoRespondersError, match=namespace):
            await connection.request(namespace, timeout=NEVER)
        await connection.client.subscribe(namespace)
        await connection.client.flush()
        with pytest.raises(errors.RequestTimeoutError, match=rf"{namespace} within 0\.05 s"):
            await connection.request(namespace, timeout=0.05)


async def test_each_of_many_requests_has_its_own_time_limit_and_its_caller_may_give_up(
    server: EmbeddedServer, namespace: str
) -> None:
    async with connect(server) as connection:
        await connection.client.subscribe(namespace)
        long = asyncio.create_task(connection.request(namespace, timeout=NEVER))
        limits = (0.3, 0.2, 0.1)  # each ends before the one that was sent before it
        brief = [asyncio.create_task(connection.request(namespace, timeout=seconds)) for seconds in limits]
        failures = await asyncio.gather(*brief, return_exceptions=True)
        assert [type(each) for each in failures] == [errors.RequestTimeoutError] * 3
        assert [str(each).count(f"within {limit:g} s") for each, limit in zip(failures, limits, strict=True)] == [1] * 3
        assert not long.done()
        long.cancel()
        with pytest.raises(asyncio.CancelledError):
            await long
        await connection.api("INFO")


async def test_a_request_that_is_kept_from_cancellations_ends_with_its_caller_and_is_forgotten(
    server: EmbeddedServer, namespace: str
) -> None:
    async with connect(server) as connection:
        await connection.client.subscribe(namespace)
        token = connection._inbox.next_token + 1  # type: ignore[union-attr]
        caller = uncancelled_here(connection.request(namespace, timeout=NEVER))
        caller.send(None)
        assert connection._inbox.has_waited_since(token)  # type: ignore[union-attr]
        caller.close()  # as at the end of the event loop
        assert not connection._inbox.has_waited_since(token)  # type: ignore[union-attr]


async def test_many_requests_under_way_get_each_its_own_reply(server: EmbeddedServer, namespace: str) -> None:
    async with connect(server) as connection:

        async def reverse(message: Any) -> None:
            await message.respond(message.data[::-1])

        await connection.client.subscribe(namespace, cb=reverse)
        futures = [await connection.send_request(namespace, b"%03d" % number) for number in range(500)]
        replies = [message.data[::-1] for message in await asyncio.gather(*futures)]
        assert replies == [b"%03d" % number for number in range(500)]


async def test_many_requests_of_one_turn_leave_while_it_goes_on(server: EmbeddedServer, namespace: str) -> None:
    async with connect(server) as connection:
        await connection.client.subscribe(namespace)
        await connection.client.flush()
        requests = [connection.request(namespace, b"%d" % number) for number in range(100)]
        queued = [(request.send(None), connection.client.queued)[1] for request in requests]
        assert queued[0] == 0, "nobody else would share the write"
        assert queued[1] == 1
        assert max(queued) < MANY_COMMANDS
        for request in requests:
            request.close()


async def test_a_message_too_large_by_its_headers_is_refused_here_and_the_connection_stays(
    server: EmbeddedServer, namespace: str
) -> None:
    async with connect(server) as connection:
        with pytest.raises(errors.PayloadTooLargeError, match="max_payload"):
            await connection.request(namespace, bytes(connection.max_payload), headers={"A": "b"})
        with pytest.raises(errors.NoRespondersError):
            await connection.request(namespace, bytes(connection.max_payload - 20), headers={"A": "b"})
        assert connection.generation == 0


async def api_error(connection: Connection, subject: str, **body: object) -> int:
    with pytest.raises(errors.ApiError) as caught:
        await connection.api(subject, body or None)
    return caught.value.err_code


async def test_the_error_codes_are_those_of_the_server(server: EmbeddedServer, namespace: str) -> None:
    stream = {"name": namespace, "subjects": [namespace], "max_bytes": 1000, "discard": "new"}
    async with connect(server) as connection:
        assert await api_error(connection, f"STREAM.INFO.{namespace}") == errors.STREAM_NOT_FOUND
        await connection.api(f"STREAM.CREATE.{namespace}", stream)
        missing = f"CONSUMER.INFO.{namespace}.missing"
        assert await api_error(connection, missing) == errors.CONSUMER_NOT_FOUND
        missing = f"STREAM.MSG.GET.{namespace}"
        assert await api_error(connection, missing, seq=7) == errors.MESSAGE_NOT_FOUND
        other = {**stream, "max_bytes": 2000}
        create = f"STREAM.CREATE.{namespace}"
        assert await api_error(connection, create, **other) == errors.STREAM_NAME_IN_USE

        async def refusal(size: int, headers: dict[str, str]) -> int:
            message = await connection.request(namespace, bytes(size), headers=headers)
            return errors.ApiError.from_answer(json.loads(message.data)["error"]).err_code

        wrong = {"Nats-Expected-Last-Subject-Sequence": "5"}
        assert await refusal(1, wrong) == errors.WRONG_LAST_SEQUENCE
        assert await refusal(2000, {}) == errors.STORE_FAILED
        await connection.api(f"STREAM.DELETE.{namespace}")
