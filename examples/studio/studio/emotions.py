"""`emotion-analysis`: texts to scores, by the VADER lexicon (Hutto and Gilbert, 2014)."""

from collections.abc import Generator
from contextlib import contextmanager

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from bullpen import Handlers, SyncContext
from studio.payloads import Emotion, Review, analyse


@contextmanager
def lexicon() -> Generator[SentimentIntensityAnalyzer]:
    """Load the lexicon, once for each process."""
    yield SentimentIntensityAnalyzer()


emotions = Handlers("emotion-analysis", lifespan=lexicon)


@emotions.handler(analyse)
def analyse_review(ctx: SyncContext[SentimentIntensityAnalyzer], review: Review) -> Emotion:
    """Score one review. A plain `def`, so it runs in a thread."""
    scores = ctx.deps.polarity_scores(review.text)
    compound = scores["compound"]
    return Emotion(
        positive=scores["pos"],
        neutral=scores["neu"],
        negative=scores["neg"],
        compound=compound,
        # The thresholds are the lexicon's authors' own.
        mood="happy" if compound >= 0.05 else "unhappy" if compound <= -0.05 else "mixed",
    )
