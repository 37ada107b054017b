"""``python -m bullpen.embedded``: have a redis-server ready, and say which one it is."""

import sys

from bullpen import embedded, errors


def main() -> int:
    """Find, fetch or build the server; exit 1 when there is none to be had."""
    try:
        found = embedded.find(say=lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201 - a command's own output
    except errors.BullpenError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    print(f"Redis for local mode and tests: {found}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
