"""What the studio's workers meet outside, as a program: the mail server and the payment gateway on fixed ports.

`make demo` starts both within itself; on Kubernetes they are a pod of their own (``kubernetes/outside.yaml``).
"""

import argparse
import asyncio
import signal

from studio.gateway import Gateway
from studio.mailbox import Mailbox
from studio.settings import Settings


async def serve(host: str, smtp_port: int, gateway_port: int) -> None:
    """Serve until SIGTERM, then say what came in."""
    gateway, mailbox = Gateway(), Mailbox(Settings.from_environment().out / "mails")
    stop = asyncio.Event()
    for which in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(which, stop.set)
    async with gateway.serving(host, gateway_port), mailbox.serving(host, smtp_port):
        print(f"mails to {mailbox.address}, payments to {gateway.url}", flush=True)
        await stop.wait()
    print(f"{len(mailbox.messages())} mails, {len(gateway.charges)} charges, {len(gateway.declined)} declined")


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m studio.outside", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--smtp-port", type=int, default=1025)
    parser.add_argument("--gateway-port", type=int, default=8090)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.host, arguments.smtp_port, arguments.gateway_port))


if __name__ == "__main__":
    main()
