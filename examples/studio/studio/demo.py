"""`make demo`: the studio at work on this machine, and the account of it.

Starts a mail server and a payment gateway of its own, then ``bullpen dev`` with the four queues and the producer, and
ends when all work is done. Exits 1 where the books do not agree.
"""

import argparse
import asyncio
import json
import os
import shutil
import sys
import time
from pathlib import Path

from rich.console import Console

from studio import account
from studio.gateway import Gateway
from studio.ledger import Ledger
from studio.mailbox import Mailbox

HERE = Path(__file__).resolve().parent.parent


async def run(out: Path, gateway: Gateway, mailbox: Mailbox, producer: list[str]) -> int:
    """Run local mode until all is done, and give its exit code."""
    environment = {
        **os.environ,
        "STUDIO_OUT": str(out),
        "STUDIO_SMTP": mailbox.address,
        "STUDIO_GATEWAY": gateway.url,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")])),
    }
    command = [
        sys.executable, "-m", "bullpen_cli", "dev", "-f", str(HERE / "queues.yaml"), "--data", str(out / "redis"),
        "--until-idle", "--report", str(out / "report.json"), "--", sys.executable, "-m", "studio.feed", *producer,
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(*command, env=environment, cwd=HERE)
    return await process.wait()


async def demo(out: Path, photographs: Path | None, texts: Path) -> int:
    """Set the stage, play, and read the books."""
    console = Console()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    producer = ["--texts", str(texts), "--asked", str(out / "asked.json")]
    if photographs is not None:
        producer += ["--photographs", str(photographs)]
    began = time.monotonic()
    gateway, mailbox = Gateway(), Mailbox(out / "mails")
    async with gateway.serving(), mailbox.serving():
        await run(out, gateway, mailbox, producer)
    try:
        asked = json.loads((out / "asked.json").read_text(encoding="utf-8"))
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))["queues"]
    except FileNotFoundError as error:
        console.print(f"[red]The run did not come to its end: {error.filename} is missing.[/red]")
        return 1
    ledger = Ledger(out / "ledger.sqlite")
    entries, amount = ledger.totals()
    world = account.World(
        sketches=len(list((out / "sketches").glob("*.png"))),
        mails=len(mailbox.messages()),
        entries=entries,
        charges=len(gateway.charges),
        declined=len(gateway.declined),
    )
    lines = account.rows(asked, report)
    console.print(account.table(lines))
    console.print(
        f"Wait and run are means. {account.suppressed(lines)} calls asked for a mail that was asked for already."
        f" The gateway failed {gateway.failures} of {gateway.requests} requests; the ledger has each of the"
        f" {entries} payments once, {amount} in all.",
        highlight=False,
    )
    for name, place in (("pictures", "sketches"), ("mails", "mails"), ("ledger", "ledger.sqlite")):
        console.print(f"  {name:<9} {os.path.relpath(out / place)}", highlight=False)
    wrong = list(account.disagreements(asked, lines, world))
    for sentence in wrong:
        console.print(f"[red]does not agree: {sentence}[/red]")
    if not wrong:
        console.print(f"[green]All books agree.[/green] {time.monotonic() - began:.0f} s")
    return 1 if wrong else 0


def main() -> None:
    """Read the command line and play."""
    parser = argparse.ArgumentParser(prog="make demo DEMO=…", description=__doc__)
    parser.add_argument("--photographs", type=Path, help="a folder of yours; else those of scikit-image's wheel")
    parser.add_argument("--texts", type=Path, default=HERE / "data" / "reviews.txt", help="one text a line")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="where everything goes; emptied first")
    arguments = parser.parse_args()
    sys.exit(asyncio.run(demo(arguments.out.resolve(), arguments.photographs, arguments.texts)))


if __name__ == "__main__":
    main()
