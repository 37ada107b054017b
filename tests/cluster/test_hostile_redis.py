"""A tenant's Redis that answers anything at all, in any form: the operator goes on, and so do all others' queues."""

import itertools
import random
from collections.abc import Callable

import pytest

from bullpen.queue.observation import FIELDS
from tests.support import operators
from tests.support.impostor import impostor, number, several, text
from tests.support.operators import is_ready, jobqueue, redis_connection, running
from tests.support.waiting import eventually

EXTREMES = (0, 1, -1, 2**31, 2**53, 2**62, 2**63 - 1, -(2**63))


class Liar:
    """Tells lies of a seed: some of the form that was asked for, some of none."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._lives = itertools.count()
        self.told = 0

    def answer(self, command: list[bytes]) -> bytes:
        """Answer a command; logins and names go well, or it would never be asked for more."""
        name = command[0].upper()
        if name in {b"AUTH", b"CLIENT", b"SELECT"}:
            return b"+OK\r\n"
        if name == b"PING":
            return b"+PONG\r\n"
        self.told += 1
        shapes: list[Callable[[], bytes]] = [self._look, self._declared, self._scalar, self._nested, self._error]
        if name == b"INFO":
            shapes = [self._info, self._info, self._scalar]
        elif name == b"ACL":
            shapes = [self._nested, self._scalar, self._users]
        elif name == b"XREAD":
            return several(several(self._scalar(), self._nested()))
        return self._random.choice(shapes)()

    def _number(self) -> int:
        return self._random.choice(EXTREMES)

    def _info(self) -> bytes:
        digits = b"9" * self._random.choice((1, 3, 5_000))
        fields = (b"run_id:%d" % next(self._lives), b"redis_version:7." + digits, b"used_memory:" + digits, b":", b"x")
        return text(b"\r\n".join(fields))

    def _look(self) -> bytes:
        """A reading of the scaler's, with numbers that are none of this world's."""
        counts = several(*(number(self._number()) for _ in FIELDS))
        crew = several(text(b"w"), text(b'{"host":"w","busy":1e308,"slots":-1,"at":1e400}'), self._scalar())
        return several(
            text(b"0-0"), counts, crew, crew, text(b'{"v":1,"history":{"v":1}}'), number(self._number()), number(1)
        )

    def _declared(self) -> bytes:
        return several(
            *(text(self._random.choice((b"ours", b"elsewhere", b"resume", b"pause", b""))) for _ in range(3))
        )

    def _users(self) -> bytes:
        return several(text(b"default"), several(), text(b"\xff\xfe"), number(1))

    def _nested(self) -> bytes:
        return several(several(several(number(1)), text(b"x")), self._scalar(), several())

    def _scalar(self) -> bytes:
        digits = text(b"1" * 5_000)
        return self._random.choice((number(self._number()), text(b""), b"$-1\r\n", b"*-1\r\n", digits, b"+OK\r\n"))

    def _error(self) -> bytes:
        return self._random.choice((b"-ERR no\r\n", b"-NOSCRIPT\r\n", b"-LOADING\r\n", b"-\r\n"))


def lied_to(api, namespace):
    """The JobQueues that lie on the liar."""
    return [each for each in api.list(operators.VERSION, "JobQueue", namespace) if each["metadata"]["name"] != "honest"]


@pytest.mark.parametrize("users", ["Managed", "Shared"])
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_whatever_one_redis_answers_the_operator_goes_on(kinds, api_server, api, namespace, own, users, seed):
    liar = Liar(seed)
    api.apply(redis_connection(namespace, own.url))
    async with impostor(liar.answer) as url:
        api.apply(redis_connection(namespace, url, name="liar", users=users, default=False))
        deletions = ({"policy": "Retain"}, {"policy": "Drain", "timeout": "1s"}, {"policy": "Delete", "timeout": "1s"})
        for count, deletion in enumerate(deletions):
            api.apply(jobqueue(namespace, f"lied-to-{count}", redisRef={"name": "liar"}, deletion=deletion))
        async with running(api_server.admin, namespace, resync_seconds=0.5) as operator:
            await eventually(lambda: liar.told > 100, 30)
            for count in range(len(deletions)):
                api.delete(operators.VERSION, "JobQueue", namespace, f"lied-to-{count}")
            await eventually(lambda: not any(lied_to(api, namespace)), 30)
            assert operator.leads()
            api.apply(jobqueue(namespace, "honest"))
            await eventually(lambda: is_ready(api, namespace, "honest"), 30)
