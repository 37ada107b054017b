"""The cluster of the end-to-end tests, by hand.

    python -m support.node up              start it; prints the kubeconfig's path last
    python -m support.node down            end it, and take away what it made
    python -m support.node build TAG DIR   build an image from DIR/Dockerfile (or -f FILE), and load it
    python -m support.node load TAG...     bring images to the node that were built
    python -m support.node base            the stand-in for the base image that a registry would give
    python -m support.node tools           build every program that the tests run: the cluster's, helm, kubeconform
    python -m support.node status          what runs

Run in tests/, or with tests/ and its parent on PYTHONPATH.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.support.kubernetes import binaries
from tests.support.kubernetes.processes import NotStarted
from tests.support.node import clusters, images
from tests.support.node.machine import tell_stderr
from tests.support.node.shell import CommandFailed


def main(arguments: list[str]) -> int:
    """Do what the first word says; 0 where it was done."""
    parser = argparse.ArgumentParser("support.node", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("up", "down", "base", "tools", "status"):
        verbs.add_parser(verb)
    build = verbs.add_parser("build")
    build.add_argument("tag")
    build.add_argument("context", type=Path)
    build.add_argument("-f", "--file", type=Path)
    build.add_argument("--build-arg", action="append", default=[])
    verbs.add_parser("load").add_argument("tags", nargs="+")
    wanted = parser.parse_args(arguments)
    try:
        _do(wanted)
    except (CommandFailed, NotStarted, PermissionError, binaries.Missing, clusters.Unavailable) as error:
        print(f"support.node {wanted.verb}: {error}", file=sys.stderr)
        return 1
    return 0


def _do(wanted: argparse.Namespace) -> None:
    if wanted.verb == "tools":
        for path in binaries.ensure(*binaries.PROGRAMS, tell=tell_stderr).values():
            print(path)
        return
    if wanted.verb == "base":
        images.ensure_base()
        return
    cluster = clusters.choose(tell_stderr)
    match wanted.verb:
        case "up":
            began = time.monotonic()
            cluster.up()
            tell_stderr(f"up after {time.monotonic() - began:.1f} s")
            print(cluster.kubeconfig)
        case "down":
            cluster.down()
        case "build":
            given = dict(argument.split("=", 1) for argument in wanted.build_arg)
            cluster.build(wanted.tag, wanted.context, wanted.file, **given)
        case "load":
            cluster.load(*wanted.tags)
        case "status":
            for part, alive in cluster.status().items():
                print(f"{part:26} {'up' if alive else 'down'}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
