"""The contracts of the four queues. Producers import this module, and none of the handlers' code."""

from decimal import Decimal
from typing import Literal

from bullpen import JobType, Payload


class Photograph(Payload):
    """A photograph to draw, by its path. `name` is what its sketch is called; without one, as the photograph."""

    path: str
    width: int = 960
    name: str = ""


class Sketch(Payload):
    """A pencil sketch: where it lies, and its size in pixels."""

    path: str
    width: int
    height: int


class Review(Payload):
    """What a customer wrote."""

    review_id: int
    text: str


class Emotion(Payload):
    """Shares of the text (0 to 1) and their sum on a scale from -1 (all is lost) to 1 (delight)."""

    positive: float
    neutral: float
    negative: float
    compound: float
    mood: Literal["happy", "mixed", "unhappy"]


class Notification(Payload):
    """A mail to one person, by template."""

    to: str
    template: Literal["welcome", "shipped", "receipt"]
    name: str
    detail: str = ""


class Payment(Payload):
    """Money to take from a card. The id is the order's, and keeps a repeated attempt from charging twice."""

    payment_id: str
    card: str
    amount: Decimal


class Receipt(Payload):
    """The ledger's entry for a payment."""

    entry: int
    charge: str


draw = JobType("draw", queue="sketch-generation", data=Photograph, result=Sketch)
analyse = JobType("analyse", queue="emotion-analysis", data=Review, result=Emotion)
notify = JobType("notify", queue="email-notifications", data=Notification)
pay = JobType("pay", queue="payment-processing", data=Payment, result=Receipt)
