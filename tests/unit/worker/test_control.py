"""What supervisor and child say to each other."""

from __future__ import annotations

import asyncio
import socket

import pytest

from bullpen_worker.supervision import control
from bullpen_worker.supervision.control import Begin, Channel, ControlError, Ticket, decode, encode

BEGIN = Begin("mail", "bull", "{}", ("shop.jobs", "shop.more:them"), 10, "pod@0123456789ab", 3, "{}")
MESSAGES = [
    BEGIN,
    Begin("mail", "bull", "{}", (), 1, "w", 4, "{}", solo=Ticket("7", "t"), overdue=(Ticket("8", "u"),)),
    control.Policy("r", '{"closed":true}'),
    control.Stop(30_000),
    control.Hold(),
    control.Release(),
    control.Concurrency(0),
    control.Lost(3, 12),
    control.Cancel("7", "no need: “any more”"),
    control.Overdue((Ticket("7", "t"), Ticket("8", "u"))),
    control.Ready(("welcome", "charge")),
    control.Metrics({"waits": {"welcome": [1, 2.5]}}),
    control.Suspect(b"\xff7".decode(errors="surrogateescape"), "t"),
    control.Settled("7"),
    control.Broken("it is"),
    control.Fatal("no module"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_what_is_said_is_understood(message):
    line = encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode(line) == message


def test_a_field_of_another_version_is_passed_over():
    assert decode(b'{"kind":"stop","grace_ms":1,"more":2}\n') == control.Stop(1)


@pytest.mark.parametrize("line", [b"", b"?\n", b"[]\n", b"{}\n", b'{"kind":"nothing"}\n', b'{"kind":"stop"}\n'])
def test_what_is_no_message_is_refused(line):
    with pytest.raises(ControlError):
        decode(line)


async def test_messages_arrive_in_order_and_end_with_the_other_side():
    one, other = socket.socketpair()
    here, there = await Channel.open(one), await Channel.open(other)
    for message in MESSAGES:
        here.send(message)
    await here.close()
    assert [message async for message in there.messages()] == MESSAGES
    there.send(control.Hold())  # nobody listens: that is no error
    await there.close()
    there.send(control.Hold())


async def test_a_message_that_was_cut_off_is_none():
    one, other = socket.socketpair()
    there = await Channel.open(other)
    one.sendall(encode(control.Hold()) + encode(control.Stop(1))[:-3])
    one.close()
    assert [message async for message in there.messages()] == [control.Hold()]
    await there.close()
    await asyncio.sleep(0)
