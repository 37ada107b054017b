"""What the chart has done by Jobs around an install, because Helm cannot: ``python -m bullpen_operator.hooks <what>``.

``redis-password`` makes the Secret of the chart's Redis, once; ``apply`` applies an object of a kind that the same release
brings; ``release`` stops the operator and takes its finalizers off, so that JobQueues can be deleted when it has gone. Each
may run any number of times. Each logs what it did, and ends with 1 and a reason when it could not.
"""

import argparse
import asyncio
import json
import logging
import os
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bullpen.errors import BullpenError
from bullpen_operator.kube import access, kinds
from bullpen_operator.kube.client import Kube
from bullpen_operator.kube.errors import Conflict, Forbidden, Invalid, KubeError, NotFound
from bullpen_operator.kube.kinds import Key, Object

log = logging.getLogger("bullpen.operator.hooks")

MANAGER: Final = "bullpen-chart"
"""Field manager of what is applied here."""
USERNAME: Final = "bullpen"
"""The operator's user in the chart's Redis."""
SERVED_SECONDS: Final = 90.0
"""How long a kind may take to be served after its CRD was made."""
STOPPED_SECONDS: Final = 60.0
"""How long the operator's pods may take to end; then finalizers come off all the same."""
RELEASED_SECONDS: Final = 30.0
"""How long a finalizer is tried to be taken off where the API server refuses."""
PAUSE_SECONDS: Final = 0.5

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


class HookFailed(BullpenError):
    """A hook could not do its work."""


@dataclass(frozen=True)
class Waiting:
    """How time passes: monotonic seconds, and how to let some of them go by."""

    clock: Clock = time.monotonic
    sleep: Sleep = asyncio.sleep


async def make_password(kube: Kube, namespace: str, secret: str) -> bool:
    """Make the Secret with the operator's user of the chart's Redis, if it is not there. False: it was.

    The right to create Secrets is enough: one that is there is neither read nor changed.
    """
    try:
        await kube.create(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": secret, "namespace": namespace, "labels": {kinds.LABEL_PART_OF: "bullpen"}},
                "type": "Opaque",
                "stringData": {"username": USERNAME, "password": secrets.token_urlsafe(32)},
            }
        )
    except Conflict:
        return False
    return True


async def apply_when_served(kube: Kube, obj: Object, waiting: Waiting) -> None:
    """Apply an object as soon as its kind is served. Raises `HookFailed` when that takes too long, and `KubeError`."""
    until = waiting.clock() + SERVED_SECONDS
    while True:
        try:
            await kube.apply(obj, MANAGER)
        except NotFound as error:
            if waiting.clock() >= until:
                msg = f"{obj['kind']} is not served {SERVED_SECONDS:g} s after its CRD was installed: {error}"
                raise HookFailed(msg) from error
            await waiting.sleep(PAUSE_SECONDS)
        else:
            return


async def stop_operator(kube: Kube, namespace: str, deployment: str, pods: Mapping[str, str], waiting: Waiting) -> bool:
    """Scale the operator to nothing and wait for its pods to end. False: some had not, after `STOPPED_SECONDS`."""
    try:
        await kube.apply_scale(kinds.DEPLOYMENT, namespace, deployment, 0, manager=MANAGER)
    except NotFound:
        return True
    until = waiting.clock() + STOPPED_SECONDS
    selector = ",".join(f"{key}={value}" for key, value in sorted(pods.items()))
    while await kube.list(kinds.POD, namespace, selector):
        if waiting.clock() >= until:
            return False
        await waiting.sleep(PAUSE_SECONDS)
    return True


async def take_finalizers_off(kube: Kube, namespaces: Sequence[str], class_name: str, waiting: Waiting) -> list[Key]:
    """Take Bullpen's finalizer off each JobQueue of this class; give those that had it. `namespaces` empty: everywhere.

    What somebody else changes meanwhile is looked at again. Raises `HookFailed` with the one that the API server still
    refuses to change after `RELEASED_SECONDS`, when it has been taken off all others.
    """
    released: list[Key] = []
    until = waiting.clock() + RELEASED_SECONDS
    while held := await _held(kube, namespaces, class_name):
        refused: tuple[Key, KubeError] | None = None
        for key, finalizers in held:
            path = "/metadata/finalizers"
            try:
                await kube.patch_json(
                    *key,
                    [
                        {"op": "test", "path": path, "value": finalizers},
                        {"op": "replace", "path": path, "value": [it for it in finalizers if it != kinds.FINALIZER]},
                    ],
                )
            except NotFound:
                continue
            except (Conflict, Forbidden, Invalid) as error:
                # It has changed meanwhile, or a policy of the cluster has something against it.
                refused = key, error
                continue
            released.append(key)
        if refused is not None:
            if waiting.clock() >= until:
                msg = f"{refused[0]} keeps its finalizer {kinds.FINALIZER}, take it off by hand: {refused[1]}"
                raise HookFailed(msg)
            await waiting.sleep(PAUSE_SECONDS)
    return released


async def _held(kube: Kube, namespaces: Sequence[str], class_name: str) -> list[tuple[Key, list[str]]]:
    held = []
    for namespace in namespaces or ("",):
        try:
            found = await kube.list(kinds.JOBQUEUE, namespace)
        except NotFound:  # its CRD has gone, and all JobQueues with it
            continue
        for jobqueue in found:
            finalizers = list(jobqueue["metadata"].get("finalizers") or ())
            if kinds.FINALIZER in finalizers and (jobqueue.get("spec") or {}).get("className", "") == class_name:
                held.append((kinds.key_of(kinds.JOBQUEUE, jobqueue), finalizers))
    return held


async def _redis_password(kube: Kube, options: argparse.Namespace, _: Waiting) -> None:
    made = await make_password(kube, options.namespace, options.secret)
    log.info("secret %s/%s %s", options.namespace, options.secret, "made" if made else "is there, and stays as it is")


async def _apply(kube: Kube, _: argparse.Namespace, waiting: Waiting) -> None:
    obj = json.loads(os.environ["BULLPEN_OBJECT"])
    await apply_when_served(kube, obj, waiting)
    log.info("%s applied", kinds.key_of(kinds.kind_of(obj), obj))


async def _release(kube: Kube, options: argparse.Namespace, waiting: Waiting) -> None:
    if await stop_operator(kube, options.namespace, options.deployment, json.loads(options.pods), waiting):
        log.info("the operator has stopped")
    else:
        log.warning("pods of the operator have not ended after %g s; going on", STOPPED_SECONDS)
    for key in await take_finalizers_off(kube, options.watched, options.class_name, waiting):
        log.info("%s has no finalizer any more", key)
    if options.connection:
        kind, _, name = options.connection.partition("/")
        of_cluster = kind == kinds.CLUSTER_REDIS_CONNECTION.kind
        connection = kinds.CLUSTER_REDIS_CONNECTION if of_cluster else kinds.REDIS_CONNECTION
        gone = await kube.delete(connection, "" if of_cluster else options.namespace, name)
        log.info("%s %s", options.connection, "deleted" if gone else "is not there")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bullpen_operator.hooks", description="What the chart has done by Jobs."
    )
    commands = parser.add_subparsers(required=True)
    password = commands.add_parser("redis-password", help="make the Secret of the chart's Redis, once")
    password.add_argument("--namespace", required=True)
    password.add_argument("--secret", required=True)
    password.set_defaults(run=_redis_password)
    apply = commands.add_parser("apply", help="apply the object in $BULLPEN_OBJECT, JSON, once its kind is served")
    apply.set_defaults(run=_apply)
    release = commands.add_parser("release", help="stop the operator, take finalizers off")
    release.add_argument("--namespace", required=True, help="where the operator runs")
    release.add_argument("--deployment", required=True, help="the operator's")
    release.add_argument("--pods", required=True, help="labels of the operator's pods, JSON")
    release.add_argument("--class", dest="class_name", default="", help="class of the JobQueues")
    release.add_argument("--watched", action="append", default=[], help="a namespace that it looks after; none: all")
    release.add_argument("--connection", default="", help="Kind/name of the connection to the chart's Redis")
    release.set_defaults(run=_release)
    return parser


async def run(arguments: Sequence[str], *, kubeconfig: str = "", waiting: Waiting | None = None) -> None:
    """Do what the arguments say. Raises `BullpenError` where it cannot be done; `SystemExit` for wrong usage."""
    options = _parser().parse_args(arguments)
    async with Kube(await access.configuration(kubeconfig)) as kube:
        await options.run(kube, options, waiting or Waiting())


def main() -> int:
    """Do what the command line says; give the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    access.read_what_the_api_server_takes()
    try:
        asyncio.run(run(sys.argv[1:]))
    except BullpenError as error:
        log.error("%s", error)  # noqa: TRY400 - the message says it all
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
