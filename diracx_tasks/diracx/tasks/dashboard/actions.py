"""What an operator does: one pattern for all actions.

    button          a form that leads to the confirmation page; it changes nothing
    confirmation    `Action.plan`: says in words what will happen, and to how many
    post            `Action.carry_out`, as a job; then a redirect
    result          a sentence on the page from which it began, or the page of the job while it runs

An action that cannot be done raises `RefusedError`, or fails as the plumbing does; either way the operator reads one
sentence. Each action is logged: who did what, and how it ended. A job runs on if its operator leaves; it is cancelled
when the dashboard ends.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

from starlette.datastructures import QueryParams

from diracx.tasks.dashboard.access import Visitor
from diracx.tasks.dashboard.mesh import Mesh
from diracx.tasks.dashboard.pages import Page, View
from diracx.tasks.plumbing.exceptions import TaskError

logger = logging.getLogger("diracx.tasks.dashboard")

MAX_JOBS: Final = 200
"""The results of so many jobs are kept; those that go on are known in any case."""
COUNTED: Final = ("total", "last")
"""The values of a confirmation page that it counted itself: what stands in an address is never taken for them."""
AT_ONCE_SECONDS: Final = 1.0
"""A job that takes longer has a page of its own."""

Values = QueryParams
"""What a button or a form sends: `get` gives one value of a name, `getlist` all."""


class RefusedError(TaskError):
    """An action that cannot be done; the text is a sentence for the operator."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Something that the operator chooses on the confirmation page."""

    name: str
    label: str
    options: Sequence[tuple[str, str]]
    """Each value with its text; the first is chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an action will do, before it does."""

    title: str
    """The heading, and what the log tells, e.g. `Pause normal-small`."""
    sentences: Sequence[str]
    """What will happen, and to how many."""
    button: str
    """What the button says, e.g. `Pause it`."""
    back: str
    """The path of the page to return to, which begins with `/`."""
    values: Sequence[tuple[str, str]]
    """What `carry_out` gets, besides the choices."""
    choices: Sequence[Choice] = ()
    dangerous: bool = False
    """Whether it cannot be undone."""


@dataclass(slots=True)
class Job:
    """An action that is carried out."""

    id: str
    title: str
    by: str
    back: str
    begun: datetime
    form: str = ""
    """The confirmation page that began it, which is sent once; empty: it is not known."""
    total: int = 0
    """How many things there are to do; 0: that is not known."""
    done: int = 0
    result: str | None = None
    """How it ended, in a sentence; None: it has not."""
    failed: bool = False
    task: str | None = None
    """The id of the task that it submitted; None: it submitted none."""
    notes: list[str] = field(default_factory=list)
    """Further lines for the operator, e.g. what could not be done; a few."""


class Action(Protocol):
    """One thing that operators do."""

    name: str
    """The last part of its path, `/actions/<name>`."""

    async def plan(self, mesh: Mesh, values: Values) -> Plan:
        """Tell what it will do; nothing is changed.

        Raises:
            RefusedError: It cannot be done.
            ServerError: The server does not answer, or refuses.
        """

    async def carry_out(self, mesh: Mesh, values: Values, job: Job) -> str:
        """Do it, and return a sentence that says what was done; `job` takes the progress.

        Args:
            values: The values and choices of the plan, as the browser sent them back: check them again.

        Raises:
            RefusedError, ServerError: As `plan`.
        """


class Jobs:
    """The actions that are carried out, and the results of the latest."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        """The oldest first."""
        self._running: dict[str, asyncio.Task[None]] = {}

    def get(self, wanted: str) -> Job | None:
        """A job by its id."""
        return self._jobs.get(wanted)

    def sent(self, form: str, visitor: Visitor) -> Job | None:
        """What a confirmation page has begun already: its button was pressed twice."""
        if not form:
            return None
        return next((job for job in self._jobs.values() if job.form == form and job.by == visitor.name), None)

    def running(self) -> list[Job]:
        """The jobs that go on, the oldest first."""
        return [job for job in self._jobs.values() if job.id in self._running]

    async def start(self, action: Action, mesh: Mesh, values: Values, plan: Plan, visitor: Visitor) -> Job:
        """Carry out an action, and wait a moment for its end."""
        form = values.get("form", "")
        if (known := self.sent(form, visitor)) is not None:
            return known
        begun = mesh.connection.clock.now()
        job = Job(secrets.token_urlsafe(9), plan.title, visitor.name, plan.back, begun, form=form)
        self._jobs[job.id] = job
        ended = [each for each, kept in self._jobs.items() if each not in self._running and kept is not job]
        for each in ended[: max(0, len(self._jobs) - MAX_JOBS)]:
            del self._jobs[each]
        running = asyncio.create_task(self._run(action, mesh, values, job), name=f"action {action.name}")
        self._running[job.id] = running
        running.add_done_callback(lambda _: self._running.pop(job.id, None))
        await asyncio.wait([running], timeout=AT_ONCE_SECONDS)
        return job

    async def _run(self, action: Action, mesh: Mesh, values: Values, job: Job) -> None:
        logger.info("%s: %s", job.by, job.title)
        try:
            result = await action.carry_out(mesh, values, job)
        except TaskError as error:
            job.failed, result = True, str(error)
        except asyncio.CancelledError:
            logger.warning("%s: %s: broken off after %d of %d", job.by, job.title, job.done, job.total)
            raise
        except Exception as error:
            logger.exception("%s: %s failed", job.by, job.title)
            job.failed, result = True, f"an unforeseen error, see the log of the dashboard: {error!r}"
        finally:
            mesh.forget()
        level = logging.WARNING if job.failed else logging.INFO
        logger.log(level, "%s: %s: %s", job.by, job.title, result)
        job.result = result

    async def end(self) -> None:
        """Break off what still runs."""
        running = list(self._running.values())
        for each in running:
            each.cancel()
        if running:
            await asyncio.wait(running)


def job_page(jobs: Jobs) -> Page:
    """The page of an action that takes long: its progress, and its result."""

    async def view(mesh: Mesh, query: QueryParams) -> View:
        return {"job": jobs.get(query.get("id", ""))}

    return Page(
        name="job",
        path="/job",
        title="Action",
        parts=("progress",),
        view=view,
        query=("id",),
        in_navigation=False,
        every=0.5,
    )
