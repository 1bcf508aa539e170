"""A worker process takes messages from the three queues of one size and runs their tasks.

Words: a *queue* is one pull consumer, `<priority>-<size>`, of the task stream. A message is *in flight* from its
arrival until its slot is free again. An *answer* is an ack, a nak or a term. To *settle* is to write the outcome of
a delivery and to send the answer. A message is *finished* once it was acked or termed: it is gone.

A delivery passes through `Processor.process` in processing.py, in six verbs from the message to its settlement:

    Intake.receive       intake.py, slots.py, isolation.py   may this message come in?
     └─ InFlight.start   in_flight.py                        one asyncio task for each message
         └─ process      processing.py
             admit           processing.py                   cancelled before it began, or finished before?
             load attempts   attempts.py                     what has been tried of this message?
             screen          processing.py                   decode; dead, cancelled, expired, early, unknown?
             run             execution/executor.py           locks, injection, `execute()`, retry policy
             settle          settlement/settlement.py        outcome -> attempt record, dead letter, ack, nak or term
             report          processing.py, snapshot.py      count the outcome, and tell `on_outcome`

Each file answers one question:

    worker.py        how does a worker start, stop, and tell its state?
    settings.py      what can be set?
    intake.py        when does a worker pull, and which messages does it take?
    slots.py         how many messages are in flight at once, and when is it worth pulling?
    isolation.py     how does a task begin as the only one of its worker, and when is a message poison?
    in_flight.py     what runs now, and what happens to it when the worker stops?
    leases.py        how long may this worker settle a message? (heartbeats, deadlines; keeps the messages in flight)
    attempts.py      what does the bucket remember of failed, crashed and interrupted executions?
    processing.py    what happens to one delivery, in order?
    settlement/      what is written and sent for each outcome, and in which order?
    loop_watch.py    which task holds up the event loop, and for how long?
    relief.py        how are leases and locks kept while it does?
    snapshot.py, observation.py    what do operators, telemetry and logs see?

**A retry** is decided in execution/executor.py: it asks the task's `retry_policy` and returns `Retry` or, when no retry
is left, `Dead` or `Discarded`. `Settlement` writes the time of the retry into the attempt record and naks with that
delay. `screen` enforces the time at the next delivery.

**A lease** is taken in `LeaseKeeper.take` and extended by each answered heartbeat. `LeaseKeeper.run` cancels the task
of a message whose lease lapsed. No ack, nak or term of an outcome is sent without a check: `Lease.ensure_held` in the
settlement, and once more in nak_batcher.py and ack_replay.py, which send later. A message whose lease lapsed is left
unsettled, and the server redelivers it.

**A task is cancelled** by its `Execution` only (execution/execution.py), which each lease has. Whoever wants that gives
it a `Cancellation`, a cause and a reason; the first one counts, but a lapsed lease or a lost lock replaces any other:

    STOP                  `InFlight.stop`: the worker stops, or a part of it ended; and the end of the event loop
    CANCELLED             `InFlight.cancel`: an operator has cancelled it, see `cancellations`
    TIMEOUT               `Execution.run`: `timeout_seconds` are over
    HELD_UP               loop_watch.py: it blocked the event loop for longer than its lease
    ESCAPED               execution/thread.py: a child or callback of it tried to end an event loop
    LEASE_LAPSED          `LeaseKeeper`: another worker may have the message
    LOCK_LOST             `Executor`: another owner may hold the lock

Without one, whatever leaves the code is the task's own failure. `Executor._conclude` makes the outcome of both. Code
that keeps a thread when it must be left ends the process, see execution/last_resort.py.

**A crash** is an execution whose process ended before its end was written: an id in `unended` of the attempt record.
A living worker takes the id out, whatever became of the execution: with the outcome, when it gives the message back, or
as soon as the server answers again (`AttemptStore.interrupt_later`). Two crashes isolate a task, five make it a poison
message, see isolation.py.

**A kill (kill -9) leaves**, besides locks that stand until their time to live is over:

    received, loaded, screened           nothing; the message is redelivered when `ack_wait` is over
    executing, first delivery            nothing: only later deliveries are counted, so this crash is not
    executing, later delivery            an id in `unended` of the record: one counted crash
    executed, ack not sent yet           as while executing: the task runs again (at least once)
    lapsed, interruption not written     as while executing, later delivery
    between two writes of a settlement   see settlement/settlement.py
    acked, record not deleted yet        an orphaned record, see attempts.py

**A killed server** forgets up to a tenth of a second of answers. ack_replay.py sends acks, terms and the naks of
retries again; any other forgotten nak brings its message back when `ack_wait` is over. A task that runs meanwhile goes
on as long as its lease holds, and its outcome waits for the reconnect until then."""

from diracx.tasks.plumbing.worker.settings import WorkerSettings
from diracx.tasks.plumbing.worker.worker import Worker

__all__ = ["Worker", "WorkerSettings"]
