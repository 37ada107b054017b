"""The mail server and the gateway as a program of their own, as they run on Kubernetes."""

import os
import re
import signal
import smtplib
import subprocess
import sys
from email.message import EmailMessage
from pathlib import Path

import httpx


def test_it_takes_mails_and_payments_and_ends_with_an_account(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "studio.outside", "--smtp-port", "0", "--gateway-port", "0"]
    environment = {**os.environ, "STUDIO_OUT": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(  # noqa: S603 - a command of our own
        command, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        where = re.fullmatch(r"mails to (.+):(\d+), payments to (http\S+)\n", first)
        assert where is not None, first
        try:
            mail = EmailMessage()
            mail["From"], mail["To"] = "studio@example.com", "ada@example.com"
            with smtplib.SMTP(where[1], int(where[2]), timeout=60) as smtp:
                smtp.send_message(mail)
            declined = httpx.post(
                f"{where[3]}/charges",
                headers={"Idempotency-Key": "one"},
                json={"card": "4000000000000002", "amount": "1"},
                timeout=60,
            )
        finally:
            process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
        assert process.wait(timeout=60) == 0
    assert declined.status_code == httpx.codes.PAYMENT_REQUIRED
    assert rest == "1 mails, 0 charges, 1 declined\n"
    assert [path.name for path in (tmp_path / "mails").iterdir()] == ["0001.eml"]
