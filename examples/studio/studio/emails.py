"""`email-notifications`: rendered messages, sent by SMTP, no faster than the provider takes them."""

import smtplib
from email.message import EmailMessage
from string import Template

from bullpen import Backoff, Handlers, SyncContext
from studio.payloads import Notification, notify
from studio.settings import Settings

emails = Handlers("email-notifications")

SUBJECTS = {
    "welcome": "Welcome to the studio, $name",
    "shipped": "Your picture is on its way",
    "receipt": "Your receipt",
}
BODIES = {
    "welcome": "Dear $name,\n\nwe are glad that you are here. $detail\n\nThe studio\n",
    "shipped": "Dear $name,\n\nyour picture has left the house: $detail.\n\nThe studio\n",
    "receipt": "Dear $name,\n\nthank you for your payment of $detail.\n\nThe studio\n",
}


def render(notification: Notification, message_id: str) -> EmailMessage:
    """Fill the template. The payload's values are data: what they contain is not read as a template again."""
    values = {"name": notification.name, "detail": notification.detail}
    message = EmailMessage()
    message["From"] = "The studio <studio@example.com>"
    message["To"] = notification.to
    message["Subject"] = Template(SUBJECTS[notification.template]).substitute(values)
    message["Message-ID"] = message_id
    message.set_content(Template(BODIES[notification.template]).substitute(values))
    return message


@emails.handler(notify, give_up_on=smtplib.SMTPRecipientsRefused, backoff_for={OSError: Backoff.fixed("2s")})
def send(ctx: SyncContext[None], notification: Notification) -> None:
    """Send one mail. Its Message-ID is the job's, so that a provider can tell a repeated attempt."""
    settings = Settings.from_environment()
    message = render(notification, f"<{ctx.job.id}@studio.example.com>")
    with smtplib.SMTP(settings.smtp_host, settings.smtp_port, timeout=10) as smtp:
        smtp.send_message(message)
    ctx.log("sent", template=notification.template)
