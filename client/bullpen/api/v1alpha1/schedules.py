"""Jobs that come by themselves: at times of the calendar or at an interval."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, JsonValue

from bullpen.api.v1alpha1.base import Cron, Duration, ItemName, JobName, Model, Passthrough, TimeZone
from bullpen.api.v1alpha1.rules import Breach, rule


class Schedule(Model):
    """Enqueues a job at each time that `cron` names, or every so often."""

    name: ItemName = Field(description="Name of the schedule, unique in the queue; its id in Redis.")
    cron: Cron | None = Field(
        default=None,
        description="Cron expression of five fields (minute, hour, day, month, weekday), or six with seconds first. "
        "Either this or `every`.",
    )
    every: Duration | None = Field(default=None, description="Interval between two jobs. Either this or `cron`.")
    time_zone: TimeZone | None = Field(default=None, description="IANA time zone that `cron` is read in; absent: UTC.")
    job: JobName = Field(description="Name of the job to enqueue.")
    data: Passthrough | None = Field(default=None, description="Payload of the job; absent: an empty object.")
    suspend: bool | None = Field(default=None, description="True: nothing is enqueued until it is taken away.")
    concurrency_policy: Literal["Allow", "Forbid"] | None = Field(
        default=None,
        description="When the job of the time before has not ended: Allow enqueues the next all the same, Forbid leaves "
        "it out; absent: Allow.",
    )
    starting_deadline: Duration | None = Field(
        default=None,
        description="How late a job that was missed may still be enqueued; absent: however late, once.",
    )

    @rule(
        "!has(self.cron) || !has(self.every)",
        "stands beside `cron`: take one of the two",
        at="every",
        reason="Forbidden",
    )
    def _comes_one_way(self) -> bool:
        return self.cron is None or self.every is None

    @rule("has(self.cron) || has(self.every)", "needs `cron` or `every`", reason="Required")
    def _comes_at_all(self) -> bool:
        return self.cron is not None or self.every is not None

    @rule(
        "!has(self.timeZone) || has(self.cron)",
        "belongs to `cron`; an interval has no time zone",
        at="timeZone",
        reason="Forbidden",
    )
    def _has_a_zone_for_its_cron(self) -> Iterator[Breach]:
        if self.time_zone is not None and self.cron is None:
            yield Breach(("timeZone",), self.time_zone)

    @property
    def zone(self) -> str:
        """The time zone in effect."""
        return self.time_zone or "UTC"

    @property
    def payload(self) -> dict[str, JsonValue]:
        """The payload in effect."""
        return self.data or {}
