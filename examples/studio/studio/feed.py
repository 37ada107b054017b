"""The studio's front office: gives work to the four queues, waits for all of it, and writes down what it asked for.

It knows the contracts in `studio.payloads` and nothing of the handlers; run by the demo, or by hand against any Redis.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path

from rich.progress import Progress

from bullpen import Client, Deduplication, JobFailed, JobHandle
from studio import photographs
from studio.payloads import Notification, Payment, Photograph, Review, analyse, draw, notify, pay

PEOPLE = (
    "Ada", "Bela", "Carla", "Dov", "Edda", "Farid", "Greta", "Hiro", "Ines", "Jun", "Kofi", "Lena", "Mo", "Nadia",
    "Olu", "Pia", "Quinn", "Rosa", "Sami", "Tara",
)  # fmt: skip
TEMPLATES = ("welcome", "shipped", "receipt")


@dataclass
class Asked:
    """What was asked of one queue, and how it ended as seen from here."""

    calls: int = 0
    jobs: int = 0
    completed: int = 0
    failed: int = 0


async def pictures(client: Client, folder: Path | None) -> Sequence[JobHandle[object]]:
    """Ask for a sketch of each photograph."""
    named = photographs.names(photographs.find(folder))
    jobs = [draw.job(Photograph(path=str(path), name=name)) for path, name in named.items()]
    return await client.enqueue_many(jobs)


async def texts(client: Client, file: Path, rounds: int) -> Sequence[JobHandle[object]]:
    """Ask for the mood of each line of the file, several times over."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()] * rounds
    return await client.enqueue_many(
        analyse.job(Review(review_id=number, text=line)) for number, line in enumerate(lines, start=1)
    )


async def mails(client: Client) -> Sequence[JobHandle[object]]:
    """Ask for each mail twice, as forms that are sent twice do. The second of each pair is suppressed."""
    handles = []
    for template in TEMPLATES:
        for name in PEOPLE:
            job = notify.job(
                Notification(to=f"{name.lower()}@example.com", template=template, name=name, detail="order 12")
            )
            once = Deduplication.simple(f"{template}-{name}")
            handles += [await client.enqueue(job, deduplication=once) for _ in range(2)]
    return handles


async def money(client: Client) -> Sequence[JobHandle[object]]:
    """Ask for payments of three kinds; refunds go first. Two cards will be declined."""
    handles = []
    for number in range(1, 61):
        card = "4000000000000002" if number in {17, 42} else "4242424242424242"
        payment = Payment(payment_id=f"order-{number:04d}", card=card, amount=Decimal("19.90") + number)
        kind = ("subscription", "order", "refund")[number % 3]
        handles.append(await client.enqueue(pay.job(payment), priority=kind, job_id=payment.payment_id))
    return handles


async def outcome(handle: JobHandle[object], timeout: str) -> bool:
    """Wait for one job and say whether it completed."""
    try:
        await handle.result(timeout=timeout)
    except JobFailed:
        return False
    return True


async def feed(folder: Path | None, file: Path, rounds: int) -> dict[str, Asked]:
    """Ask for everything, then wait for everything."""
    async with Client() as client:
        asked = {}
        waiting: list[tuple[str, JobHandle[object]]] = []
        for handles in (
            await money(client),
            await mails(client),
            await pictures(client, folder),
            await texts(client, file, rounds),
        ):
            jobs = {handle.id: handle for handle in handles}
            queue = handles[0].queue
            asked[queue] = Asked(calls=len(handles), jobs=len(jobs))
            waiting += [(queue, handle) for handle in jobs.values()]
        with Progress(transient=True, disable=not sys.stdout.isatty()) as progress:
            bar = progress.add_task("waiting for results", total=len(waiting))

            async def wait(queue: str, handle: JobHandle[object]) -> None:
                if await outcome(handle, "3m"):
                    asked[queue].completed += 1
                else:
                    asked[queue].failed += 1
                progress.advance(bar)

            async with asyncio.TaskGroup() as group:
                for queue, handle in waiting:
                    group.create_task(wait(queue, handle))
        return asked


def main() -> None:
    """Read the command line, feed, and write what was asked as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photographs", type=Path, help="a folder of yours; else those of scikit-image's wheel")
    parser.add_argument("--texts", type=Path, default=Path("data/reviews.txt"), help="one text a line")
    parser.add_argument("--rounds", type=int, default=10, help="how often to go through the texts")
    parser.add_argument("--asked", type=Path, help="where to write what was asked, as JSON")
    arguments = parser.parse_args()
    asked = asyncio.run(feed(arguments.photographs, arguments.texts, arguments.rounds))
    text = json.dumps({queue: asdict(numbers) for queue, numbers in asked.items()}, indent=2)
    if arguments.asked:
        arguments.asked.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
