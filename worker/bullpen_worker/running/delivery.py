"""The sending of one ack, again until Redis has answered it or the job's lock is known to be lost.

A result is never turned into a failure because a connection broke. A repeated ack that finds the lock gone was most likely
applied the first time; the job's hash tells. A call whose answer was lost may have locked another job with the slot's
token, so the slot takes a new one afterwards and leaves the old one to `bullpen_worker.running.orphans`. What Redis refuses for good
is `bullpen_worker.running.rescue`'s.
"""

import asyncio
import contextlib
import logging
import time
from typing import Final, Protocol

from bullpen.handling import outcomes
from bullpen.handling.failures import Failure
from bullpen.redis.failures import ConnectionLost, ReplyError
from bullpen.redis.wire import Connection, Reply, pack_command
from bullpen_worker.running import acks, fetching, lines, rescue
from bullpen_worker.running.acks import Ending, FetchedJob
from bullpen_worker.running.fetching import Empty
from bullpen_worker.running.floor import Floor
from bullpen_worker.running.lines import Line
from bullpen_worker.running.runs import Run

MOST_REFUSALS: Final = 8
"""How often an ack is sent that Redis refuses for a reason that should not pass, some 5 s in all; then the job fails."""

_LONGEST_PAUSE_S: Final = 2.0
_HEAR_S: Final = 0.1  # a nudge, a beat, and a word from supervisor to child
logger = logging.getLogger("bullpen.worker")

_CHILDREN: Final = {
    acks.PENDING_CHILDREN: Failure("RuntimeError", "the handler returned while children of its job have not ended", ""),
    acks.FAILED_CHILDREN: Failure("RuntimeError", "children of the job have failed", ""),
}


class Sender(Protocol):
    """The slot whose job it is."""

    token: bytes
    lock_lost: bool

    @property
    def line(self) -> Line:
        """Its connection."""

    def renew_token(self) -> None:
        """Take a token that no call under way uses."""

    def ask(self) -> None:
        """Note that a call is sent now that may bring a job."""


class Delivery:
    """How the sending of one ack has gone so far."""

    def __init__(self, floor: Floor, sender: Sender, run: Run, ending: Ending) -> None:
        self._floor = floor
        self._sender = sender
        self._run = run
        self._ending = ending
        self._uncertain = False  # an earlier sending may have been applied
        self._refusals = 0
        self._set_aside = False
        self._wakes = True
        self._pause_s = 0.05

    async def write(self, run_ms: float | None) -> FetchedJob | Empty:
        """Write what became of the job; give what the last answer brought."""
        floor, sender, run = self._floor, self._sender, self._run
        if isinstance(self._ending, outcomes.RateLimited):
            floor.limited(self._ending.delay_ms)  # before Redis knows: the job's return wakes our own fetcher
            self._ending = await self._announce(self._ending.delay_ms)
        while True:
            if sender.lock_lost or isinstance(self._ending, outcomes.LockLost):
                self._ending = outcomes.LockLost()
                found: FetchedJob | Empty = fetching.UNTOLD
                sender.renew_token()
                break
            if self._set_aside:
                found = fetching.UNTOLD
                sender.renew_token()
                break
            connection = sender.line.connection or await sender.line.ready()
            fetch = not self._uncertain and floor.wants_next()
            now_ms = time.time_ns() // 1_000_000
            ack = acks.plan(
                self._ending, run.subject(), sender.token, now_ms, floor.pack, fetch=fetch, wake=self._wakes
            )
            ack = ack.after(*run.output.take(floor.pack))
            sender.ask()
            try:
                reading = ack.read(await connection.call_many(ack.packed, ack.replies))
                applied = reading.code == 0 or await self._was_applied(reading.code)
            except (ConnectionLost, ReplyError) as error:
                await self.failed(error, connection)
                continue
            if not applied:
                self.refused(reading.code)
                continue
            floor.heard = True
            found = reading.next
            if self._uncertain:
                sender.renew_token()
            break
        floor.ended(run, self._ending, run_ms)
        return found

    async def _announce(self, delay_ms: int) -> outcomes.RateLimited:
        """Let all workers know of a limit before its job is there to be taken; give what is left of it then."""
        connection = self._sender.line.connection
        if connection is not None:
            with contextlib.suppress(ConnectionLost):
                await connection.call_many(*self._floor.pack.announce_limit(max(delay_ms, 1)))
                await asyncio.sleep(_HEAR_S)
                delay_ms -= int(_HEAR_S * 1000)
        return outcomes.RateLimited(max(delay_ms, 1))

    async def failed(self, error: ConnectionLost | ReplyError, connection: Connection) -> None:
        """Do what helps before the ack is sent again, and wait a while; give the job up when nothing does."""
        if isinstance(error, ConnectionLost):
            if error.sent:
                self.doubt()
            return
        self.doubt()  # commands behind the refused one may have been carried out, a fetch among them
        if error.code == "NOSCRIPT":
            with contextlib.suppress(ConnectionLost):
                await self._sender.line.load(connection)
            return
        self._wakes = error.code != "OOM"
        if not lines.passing(error):
            self._refusals += 1
            try:
                await self._bear(error, connection)
            except ConnectionLost:
                return
            if self._set_aside or isinstance(self._ending, outcomes.LockLost):
                return
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)

    async def _bear(self, error: ReplyError, connection: Connection) -> None:
        """See to a job whose end is refused: a script that broke off may have left it nowhere. In the end, fail it."""
        job_id, pack, token = self._run.id, self._floor.pack, self._sender.token
        try:
            attempts_made = self._run.stored.attempts_made
            await rescue.hold(connection, pack, job_id, token, lock_ms=rescue.LOCK_MS, attempts_made=attempts_made)
            if self._refusals < MOST_REFUSALS:
                return
            if isinstance(self._ending, outcomes.Released):  # nothing is lost with it: it runs again
                self._give_up(error)
            elif isinstance(self._ending, outcomes.Failed):
                why = self._ending.failure
                self._set_aside = await rescue.set_aside(
                    connection, pack, job_id, token, why, now_ms=time.time_ns() // 1_000_000
                )
                if not self._set_aside:
                    self._give_up(error)
            else:
                why = rescue.failure(acks.label(self._ending), error)
                logger.error("job %s fails: %s", job_id.decode(errors="replace"), why.reason)
                self._ending = outcomes.Failed(why)
        except ReplyError as refusal:
            if self._refusals >= MOST_REFUSALS:
                self._give_up(refusal)

    def _give_up(self, error: ReplyError) -> None:
        self._floor.trouble(self._run.id, error)
        self._ending = outcomes.LockLost()

    def refused(self, code: Reply) -> None:
        """Say what becomes of a job whose ack the script refused: nothing was written."""
        if isinstance(code, int) and code in _CHILDREN and not isinstance(self._ending, outcomes.Failed):
            self._ending = outcomes.Failed(_CHILDREN[code])
        else:
            self._ending = outcomes.LockLost()

    def doubt(self) -> None:
        """Note that a sending may have been carried out, and may have fetched a job."""
        self._uncertain = True
        self._floor.uncertain(self._sender.token)

    async def _was_applied(self, code: int) -> bool:
        """Say whether an ack that found no job or lock of ours had been applied by an earlier sending."""
        if not self._uncertain or code in _CHILDREN:
            return False
        if code == acks.GONE or not acks.spends_attempt(self._ending):
            return True
        connection = await self._sender.line.ready()
        made = await connection.call(pack_command("HGET", self._floor.pack.job_key(self._run.id), "atm"))
        return isinstance(made, bytes) and made.isdigit() and int(made) > self._run.stored.attempts_made
