"""Mails by real SMTP: one for each notification, no faster than the provider takes them."""

import email
import smtplib
from pathlib import Path

import pytest

from bullpen import Deduplication
from bullpen.testing import SyncHarness
from studio.emails import emails
from studio.mailbox import Mailbox
from studio.payloads import Notification, notify


def notification(name: str) -> Notification:
    return Notification(to=f"{name.lower()}@example.com", template="shipped", name=name, detail="order 12")


def test_a_mail_arrives_under_the_jobs_id(mailbox: Mailbox, queues: Path) -> None:
    with SyncHarness(emails, queues=queues) as harness:
        handle = harness.client.enqueue(notify.job(notification("Ada")))
        handle.result(timeout="1m")
        assert handle.logs() == ['sent template="shipped"']
    (file,) = mailbox.messages()
    message = email.message_from_bytes(file.read_bytes())
    assert (message["To"], message["Message-ID"]) == ("ada@example.com", f"<{handle.id}@studio.example.com>")
    assert "order 12" in message.as_string()


def test_a_form_that_is_sent_twice_sends_one_mail(mailbox: Mailbox, queues: Path) -> None:
    with SyncHarness(emails, queues=queues) as harness:
        for _ in range(2):
            harness.client.enqueue(notify.job(notification("Bela")), deduplication=Deduplication.simple("shipped-Bela"))
        assert harness.run_until_idle() == 1
    assert len(mailbox.messages()) == 1


def test_no_more_than_ten_a_second(mailbox: Mailbox, queues: Path) -> None:
    with SyncHarness(emails, queues=queues) as harness:
        harness.client.enqueue_many(notify.job(notification(f"Person{number}")) for number in range(25))
        assert [harness.run_until_idle(), harness.advance("1s"), harness.advance("1s")] == [10, 10, 5]
    assert len(mailbox.messages()) == 25


def test_a_server_that_is_away_is_tried_again(mailbox: Mailbox, queues: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = mailbox.address
    with SyncHarness(emails, queues=queues) as harness:
        monkeypatch.setenv("STUDIO_SMTP", "127.0.0.1:1")
        harness.client.enqueue(notify.job(notification("Carla")))
        assert harness.run_until_idle() == 1
        monkeypatch.setenv("STUDIO_SMTP", address)
        assert harness.advance("2s") == 1
    assert len(mailbox.messages()) == 1


def test_an_address_that_the_server_refuses_is_given_up(
    mailbox: Mailbox, queues: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> str:
        return "550 no such user here"

    monkeypatch.setattr(mailbox, "handle_RCPT", refuse, raising=False)  # aiosmtpd asks for it by name
    with SyncHarness(emails, queues=queues) as harness:
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            harness.run(notify.job(notification("Dov")))
        assert [info.attempt for info in harness.jobs(notify)] == [1]
    assert not mailbox.messages()
