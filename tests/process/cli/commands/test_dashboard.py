"""`diracx-task-run dashboard` as a process, and as a part of `dev`."""

from __future__ import annotations

import re
import signal

import httpx
import pytest

from diracx.tasks.testing import wait_until
from support.command_line import CommandLine, OnTheServer
from support.processes import DevProcess, LoggedProcess, free_port

TOKEN = "a-token-of-a-test-process"
LINK = re.compile(r"http://\S+/login\?token=\S+")


async def link_of(process: LoggedProcess) -> str:
    """The link that it prints."""
    await wait_until(lambda: LINK.search(process.log) is not None, description="it prints its link", timeout=30)
    found = LINK.search(process.log)
    assert found is not None
    return found[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_prints_a_link_answers_and_ends_also_with_an_open_stream(
    with_server: CommandLine, on_the_server: OnTheServer, number: signal.Signals
) -> None:
    await on_the_server.set_up()
    process = LoggedProcess(with_server, "dashboard", "--port", "0")
    link = await link_of(process)
    async with httpx.AsyncClient(base_url=link.partition("/login")[0], follow_redirects=True, timeout=20) as client:
        assert (await client.get("/live")).text == "ok\n"
        assert (await client.get("/ready")).text == "ok\n"
        page = await client.get(link)
        assert "<h1>Overview</h1>" in page.text
        async with client.stream("GET", "/events/overview") as answer:
            assert answer.status_code == 200
            lines = answer.aiter_lines()
            while "event: part" not in await anext(lines):
                pass
            process.process.send_signal(number)
            assert await process.ended() == 0
    assert "Traceback" not in process.log


async def test_a_token_of_ones_own_outlives_a_restart(with_server: CommandLine, on_the_server: OnTheServer) -> None:
    await on_the_server.set_up()
    file = with_server.folder / "token"
    file.write_text(f"{TOKEN}\n")
    port = str(free_port())
    cookies = None
    for _ in range(2):
        process = LoggedProcess(with_server, "dashboard", "--port", port, "--token-file", str(file))
        await process.logs("/login")
        link = f"http://127.0.0.1:{port}/login?token={TOKEN}"
        assert TOKEN not in process.log, "a log keeps what it says for longer than a secret may be there"
        async with httpx.AsyncClient(base_url=link.partition("/login")[0], cookies=cookies, timeout=20) as client:
            if cookies is None:
                assert (await client.get(link)).status_code == 303
                cookies = client.cookies
            assert (await client.get("/")).status_code == 200
        assert await process.stop() == 0


REFUSED = {
    ("--host", "0.0.0.0"): "is reached from other machines: give --token-file FILE",
    ("--operator", "alice"): "--operator goes with --user-header",
    ("--proxy", "192.0.2.1"): "--proxy goes with --user-header",
    ("--root-path", "tasks"): "'tasks' is not a path such as /diracx-tasks",
    ("--root-path", "/tasks"): "/tasks is a path of the dashboard's own; choose one such as /diracx-tasks",
    ("--root-path", "/static/dashboard"): "/static is a path of the dashboard's own",
    ("--user-header", "a b"): "'a b' is not the name of a header",
    ("--token-file", "nowhere"): "No such file or directory",
    ("--host", "192.0.2.1", "--user-header", "X-Remote-User"): "192.0.2.1:8225: ",
}


def test_what_cannot_be_is_refused_in_one_line(bare: CommandLine) -> None:
    found = bare.each([("dashboard", *arguments) for arguments in REFUSED])
    for (arguments, text), done in zip(REFUSED.items(), found, strict=True):
        assert done.returncode == 2, arguments
        assert text in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_token_that_could_be_guessed_is_refused(bare: CommandLine) -> None:
    (done,) = bare.each([("dashboard",)], DIRACX_TASKS_DASHBOARD_TOKEN="short")
    assert done.returncode == 2
    assert "the token has to be one line of 16 characters or more" in done.stderr


def test_without_a_server_it_exits_69(bare: CommandLine) -> None:
    done = bare("dashboard", "--port", "0")
    assert done.returncode == 69
    assert "no server" in done.stderr or "cannot connect" in done.stderr or "127.0.0.1:1" in done.stderr


@pytest.fixture
def without_jinja2(extension: CommandLine) -> CommandLine:
    """An environment in which a library of the extra is not found."""
    site = extension.folder / "site"
    (site / "sitecustomize.py").write_text(
        "import sys\n"
        "class Missing:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'jinja2':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing)\n"
    )
    return extension


def test_a_missing_extra_is_one_line_that_says_how_to_install_it(without_jinja2: CommandLine) -> None:
    done = without_jinja2("dashboard")
    assert done.returncode == 2
    assert "the dashboard needs jinja2, which is not installed: pip install 'diracx-tasks[dashboard]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


async def test_dev_starts_it_prints_its_link_and_ends_it(extension: CommandLine) -> None:
    dev = DevProcess(extension, "--port", str(free_port()))
    await dev.ready()
    link = await link_of(dev)
    async with httpx.AsyncClient(timeout=20, follow_redirects=True) as client:
        page = await client.get(link)
        assert page.status_code == 200
        assert "<h1>Overview</h1>" in page.text
    assert await dev.stop() == 0
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.TransportError):
            await client.get(link)


async def test_dev_goes_without_it_where_it_is_not_installed_or_not_wanted(
    without_jinja2: CommandLine,
) -> None:
    dev = DevProcess(without_jinja2, "--port", str(free_port()))
    await dev.ready()
    assert "no dashboard, since jinja2 is not installed: pip install 'diracx-tasks[dashboard]'" in dev.log
    assert await dev.stop() == 0
    unwanted = DevProcess(without_jinja2, "--no-dashboard", "--port", str(free_port()))
    await unwanted.ready()
    assert "dashboard" not in unwanted.log
    assert await unwanted.stop() == 0
