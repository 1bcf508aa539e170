"""Code on an event loop cannot end the loop: see `execution.loops`."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import Context, ContextVar

import pytest

from diracx.tasks.plumbing.execution import loops
from diracx.tasks.plumbing.execution.loops import (
    LoopClosedError,
    keep_running,
    loop_on_a_thread,
    run,
    run_on,
    task_that_raised,
)

whose: ContextVar[str] = ContextVar("whose", default="nobody's")

Unruly = Callable[[], Awaitable[object]]


async def exit_in_a_child() -> None:
    async def child() -> None:
        sys.exit(2)

    await asyncio.gather(child(), asyncio.sleep(30))


async def exit_in_a_group() -> None:
    async def child() -> None:
        raise KeyboardInterrupt

    async with asyncio.TaskGroup() as group:
        group.create_task(child())
        group.create_task(asyncio.sleep(30))


async def exit_in_a_callback() -> None:
    asyncio.get_running_loop().call_soon(sys.exit)
    await asyncio.sleep(0.01)


async def stop_the_loop() -> None:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.01)


async def close_the_loop() -> None:
    asyncio.get_running_loop().close()


@pytest.mark.parametrize(
    ("unruly", "escaped", "raised"),
    [
        (exit_in_a_child, [SystemExit], SystemExit),
        (exit_in_a_group, [KeyboardInterrupt], KeyboardInterrupt),
        (exit_in_a_callback, [SystemExit], type(None)),
        (stop_the_loop, [], type(None)),
        (close_the_loop, [], RuntimeError),
    ],
)
def test_a_loop_and_the_neighbours_on_it_survive_unruly_code(
    unruly: Unruly, escaped: list[type[BaseException]], raised: type[BaseException]
) -> None:
    seen: list[tuple[type[BaseException], str]] = []
    in_a_child: list[bool] = []

    def on_escape(error: BaseException, context: Context | None) -> None:
        in_a_child.append(task_that_raised(error) is not None)
        seen.append((type(error), context[whose] if context is not None else "unknown"))

    async def contained() -> BaseException | None:
        whose.set("the task's")
        try:
            await unruly()
        except BaseException as error:
            return error
        return None

    async def main() -> tuple[BaseException | None, str]:
        neighbour = asyncio.create_task(asyncio.sleep(0.05, "the neighbour has ended"))
        error = await asyncio.create_task(contained())
        return error, await neighbour

    error, neighbour = run(main(), on_escape=on_escape)
    assert neighbour == "the neighbour has ended"
    assert isinstance(error, raised)
    assert seen == [(kind, "the task's") for kind in escaped]
    assert in_a_child == [unruly is not exit_in_a_callback for _ in escaped]
    frames = [] if error is None else traceback.extract_tb(error.__traceback__)
    assert not [frame for frame in frames if frame.name == "run_forever"], "the loop's own frames are cut"


def test_a_loop_that_was_closed_is_told_from_one_that_goes_on() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    with pytest.raises(LoopClosedError):
        keep_running(loop, lambda: False)


def test_a_loop_is_closed_though_a_thread_of_its_executor_still_runs() -> None:
    release, begun = threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        release.wait(30)

    async def main() -> str:
        asyncio.get_running_loop().run_in_executor(None, block)
        await asyncio.to_thread(begun.wait, 30)
        return "ended"

    try:
        assert run(main()) == "ended"
    finally:
        release.set()


def test_a_loop_is_closed_though_a_generator_never_closes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loops, "CLOSE_SECONDS", 0.05)
    left: list[AsyncIterator[None]] = []
    ended: list[str] = []

    async def never_closes() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.Event().wait()

    async def main() -> str:
        left.append(never_closes())
        await anext(left[0])
        return "ended"

    running = threading.Thread(target=lambda: ended.append(run(main())), daemon=True)
    running.start()
    running.join(10)
    assert ended == ["ended"]
    assert "left behind: asynchronous generators that do not close" in caplog.text


def test_an_exception_that_left_no_callback_of_a_loop_has_no_task() -> None:
    assert task_that_raised(KeyboardInterrupt()) is None


def test_a_cancellation_that_is_not_meant_is_not_passed_on() -> None:
    async def main() -> str:
        begun = threading.Event()

        async def elsewhere() -> str:
            begun.set()
            await asyncio.sleep(0.05)
            return "not cancelled"

        with loop_on_a_thread("elsewhere") as loop:
            running = asyncio.create_task(run_on(loop, elsewhere(), is_meant=lambda: False))
            await asyncio.to_thread(begun.wait, 30)
            running.cancel()
            return await running

    assert run(main()) == "not cancelled"
