"""Texts to moods, by a real lexicon."""

from pathlib import Path

import pytest

from bullpen import PayloadInvalid, PayloadTooLarge
from bullpen.testing import SyncHarness
from studio.emotions import emotions
from studio.payloads import Review, analyse


@pytest.mark.parametrize(
    ("text", "mood"),
    [
        ("What a wonderful, lovely studio!", "happy"),
        ("The frame arrived broken and nobody answered. Terrible.", "unhappy"),
        ("The parcel has four sides.", "mixed"),
    ],
)
def test_moods(text: str, mood: str, queues: Path) -> None:
    with SyncHarness(emotions, queues=queues) as harness:
        emotion = harness.run(analyse.job(Review(review_id=1, text=text)))
    assert emotion.mood == mood
    assert abs(emotion.positive + emotion.neutral + emotion.negative - 1) < 0.01


def test_what_the_queue_does_not_take(queues: Path) -> None:
    with SyncHarness(emotions, queues=queues) as harness:
        with pytest.raises(PayloadInvalid, match=r"\$\.text"):
            harness.client.enqueue(analyse.job(Review(review_id=1, text="")))
        with pytest.raises(PayloadTooLarge):
            harness.client.enqueue(analyse.job(Review(review_id=1, text="a" * 20_000)))
        assert not harness.jobs()
