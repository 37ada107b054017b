# pyright: strict
"""What producers import: payloads, results and a contract without code."""

from bullpen import JobType, Payload


class Welcome(Payload):
    user_id: int
    locale: str = "en"


class Receipt(Payload):
    message_id: str


class Page(Payload):
    url: str
    text: str = ""


charge = JobType("charge", queue="payments", data=Welcome, result=Receipt)
