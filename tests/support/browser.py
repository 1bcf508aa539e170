"""A real browser for the tests of the dashboard's pages: Chromium, driven by Playwright."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from playwright.async_api import Page, Request

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
NO_BROWSER: Final = "no browser: the tests of the dashboard's pages need chromium on the PATH, and playwright"
_START_SECONDS: Final = 30.0


def find_chromium() -> str | None:
    """The path of the browser; None: there is none, or nothing to drive it with."""
    if importlib.util.find_spec("playwright") is None:
        return None
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def chromium(folder: Path) -> Iterator[str]:
    """Run a browser without windows; gives the URL of its debugging protocol.

    Args:
        folder: For its profile.
    """
    path = find_chromium()
    assert path is not None, NO_BROWSER
    # --no-sandbox: the sandbox refuses to run as root, as in most containers. The pages are ours.
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
    offline = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server")
    with (
        (folder / "chromium.log").open("wb") as log,
        subprocess.Popen(
            [path, *options, *offline, "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            yield f"http://127.0.0.1:{_port(process, folder / 'DevToolsActivePort')}"
        finally:
            process.terminate()


def _port(process: subprocess.Popen[bytes], written: Path) -> int:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        assert process.poll() is None, f"chromium ended with {process.returncode}"
        lines = written.read_text().splitlines() if written.exists() else []
        if lines:
            return int(lines[0])
        time.sleep(0.02)
    raise AssertionError(f"chromium did not start within {_START_SECONDS:g} s")


@asynccontextmanager
async def opened_page(debugging_url: str, *, width: int = 1024, scripts: bool = True) -> AsyncIterator[Page]:
    """A page in a context of its own: no cookie of another test. Every request must stay on this host, without errors
    of scripts and of the content security policy, and without a dialog.

    Args:
        width: Of the window, in CSS pixels.
        scripts: Whether the browser runs scripts.
    """
    from playwright.async_api import async_playwright

    requests: list[Request] = []
    problems: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.connect_over_cdp(debugging_url)
        context = await browser.new_context(viewport={"width": width, "height": 900}, java_script_enabled=scripts)
        page = await context.new_page()
        page.on("request", lambda request: requests.append(request))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text) if _is_refusal(line.text) else None)
        page.on("dialog", lambda dialog: problems.append(f"a dialog: {dialog.message}"))
        page.set_default_timeout(15_000)
        try:
            yield page
        finally:
            await context.close()
            await browser.close()
    hosts = {urlsplit(request.url).hostname for request in requests if request.url.startswith("http")}
    assert hosts <= {"127.0.0.1"}, f"requests left this host: {sorted(map(str, hosts))}"
    assert not problems, problems


async def open_session(page: Page, url: str) -> None:
    """Begin a session by the link that the dashboard prints; the page shows the overview then."""
    from support.dashboards import TOKEN

    await page.goto(f"{url}/login?token={TOKEN}")


async def confirm(page: Page, button: str) -> str:
    """Press the button of a confirmation page.

    Returns:
        What the page has said before.
    """
    pressed = page.locator("form.confirm").get_by_role("button", name=button, exact=True)
    await pressed.wait_for()
    text = await page.locator("form.confirm").inner_text()
    async with page.expect_navigation():
        await pressed.click()
    return text


async def shown_result(page: Page) -> str:
    """The line that tells how an action has ended, also if it takes so long that it has a page of its own.

    In small letters, since there the line begins with a capital.
    """
    return (await page.locator("[role=alert], #part-progress strong").inner_text()).lower()


def _is_refusal(line: str) -> bool:
    return "Content Security Policy" in line or "Refused to" in line
