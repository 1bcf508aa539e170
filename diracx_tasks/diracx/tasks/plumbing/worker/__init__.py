"""How does a worker process run tasks?

The way of one delivery is `Processor.process` in processing.py, six verbs from the message to its settlement:

    Intake.receive       intake.py, slots.py, isolation.py   may this message come in?
     └─ InFlight.start   in_flight.py                        one asyncio task for each message
         └─ process      processing.py
             admit           processing.py                   interrupted before it began, or settled before?
             load_attempts   attempts.py                     what has been tried of this message?
             screen          processing.py                   decode; dead, expired, early, unknown, wrong queue?
             run             execution/executor.py           locks, injection, `execute()`, retry policy
             settle          settlement/settlement.py        outcome -> attempt record, dead letter, ack, nak or term
             report          processing.py                   tell `on_outcome`

Which file answers which question:

    worker.py        how does a worker start, stop, and tell its state?
    settings.py      what can be set?
    intake.py        when does a worker pull, and which messages does it take?
    slots.py         how many tasks run at once, and when is it worth pulling?
    isolation.py     which task must run isolated, and when is a message poison?
    in_flight.py     what runs now, and what happens to it when the worker stops?
    leases.py        how long may this worker settle a message? (heartbeats, deadlines)
    attempts.py      what does the mesh remember of failed, crashed and interrupted executions?
    processing.py    what happens to one delivery, in order?
    settlement/      what is written and sent for each outcome, and in which order?
    snapshot.py, observation.py, loop_lag.py    what do operators, telemetry and logs see?

**A retry is decided** in execution/executor.py: it asks the task's `retry_policy` and returns `Retry` or, when no retry
is left, `Dead` or `Discarded`. The settlement only carries that out.

**A lease is checked** in two ways. `Lease.ensure_held` raises right before each ack, nak and term of a settlement;
nak_batcher.py and ack_replay.py check the deadline once more before they send. `LeaseKeeper.run` cancels the task of a
message whose lease lapsed.

**A crash leaves**, by the step that it interrupts:

    received, first delivery       nothing; the message is redelivered when `ack_wait` is over
    executing, first delivery      nothing: only later deliveries write `begun`, so this crash is not counted
    executing, later delivery      a record with `begun` ahead of `ended`: one crash
    between two writes of settle   see settlement/settlement.py
"""

from diracx.tasks.plumbing.worker.settings import WorkerSettings
from diracx.tasks.plumbing.worker.worker import Worker

__all__ = ["Worker", "WorkerSettings"]
