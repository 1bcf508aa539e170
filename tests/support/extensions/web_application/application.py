"""A web application that submits a task in each request, as DiracX's routers do."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.exceptions import SendTaskError
from diracx.tasks.plumbing.jetstream import JetStreamBroker


@dataclasses.dataclass
class Numbered(BaseTask):
    number: int

    size = Size.SMALL

    async def execute(self) -> int:
        return self.number


@asynccontextmanager
async def connected(app: FastAPI) -> AsyncIterator[None]:
    async with JetStreamBroker.connect(namespace=os.environ["DIRACX_TASKS_NAMESPACE"]):
        yield


app = FastAPI(lifespan=connected)


@app.post("/tasks/{number}")
async def submit(number: int) -> dict[str, str | int]:
    try:
        return {"id": await Numbered(number).schedule(), "process": os.getpid()}
    except SendTaskError as error:
        raise HTTPException(503, str(error)) from None
