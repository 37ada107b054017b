"""Jobs that come by themselves: at times of the calendar or at an interval."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, JsonValue

from bullpen.api.v1alpha1.base import Cron, Duration, ItemName, JobName, Model, Passthrough, TimeZone, Violation


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

    def violations(self) -> Iterator[Violation]:
        """One of `cron` and `every`; a time zone belongs to `cron`."""
        if self.cron is not None and self.every is not None:
            yield Violation(("every",), "stands beside `cron`: take one of the two")
        if self.cron is None and self.every is None:
            yield Violation((), "needs `cron` or `every`")
        if self.time_zone is not None and self.cron is None:
            yield Violation(("timeZone",), "belongs to `cron`; an interval has no time zone", self.time_zone)

    @property
    def zone(self) -> str:
        """The time zone in effect."""
        return self.time_zone or "UTC"

    @property
    def payload(self) -> dict[str, JsonValue]:
        """The payload in effect."""
        return self.data or {}
