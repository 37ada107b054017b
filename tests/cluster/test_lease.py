"""The lease of the one that leads, on a real API server: what it may lose on the way without losing the lead."""

import asyncio
import contextlib

import pytest

from bullpen_operator.kube import access
from bullpen_operator.kube.client import Kube
from bullpen_operator.kube.lease import Election, Terms
from tests.support import loops
from tests.support.kubernetes import proxy
from tests.support.kubernetes.faults import Answer, LoseReply
from tests.support.waiting import eventually

LEASES = "coordination.k8s.io/v1"


@contextlib.asynccontextmanager
async def standing(login, namespace, told):
    """A candidate that stands for election."""
    async with Kube(await access.configuration(str(login.kubeconfig))) as kube:
        terms = Terms(
            namespace=namespace, name="one", identity="a", lease_seconds=60.0, renew_seconds=50.0, retry_seconds=0.2
        )
        task = asyncio.create_task(Election(kube, terms, changed=told.append).run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
    await loops.end_goodbyes()


@pytest.mark.parametrize("fault", [LoseReply(), Answer(409)])
async def test_a_renewal_whose_answer_was_lost_or_overtaken_costs_no_lead(api_server, api, namespace, fault):
    told = []

    def renewed():
        return api.get(LEASES, "Lease", namespace, "one")["spec"]["renewTime"]

    with proxy.between(api_server) as faulty:
        login = api_server.login(f"candidate-{namespace}", "system:masters", server=faulty.url)
        async with standing(login, namespace, told):
            await eventually(lambda: told == [True], 15)
            rule = faulty.inject(fault, verbs={"update"}, resources={"leases"}, times=1)
            await eventually(lambda: rule.hits == 1, 15)
            for _ in range(2):
                before = renewed()
                await eventually(lambda before=before: renewed() != before, 15)
            assert told == [True]
    assert told == [True, False]


async def test_a_lease_that_was_given_to_another_is_let_go_of(api_server, api, namespace):
    told = []
    async with standing(api_server.admin, namespace, told):
        await eventually(lambda: told == [True], 15)
        api.patch(LEASES, "Lease", namespace, "one", {"spec": {"holderIdentity": "b"}})
        await eventually(lambda: told == [True, False], 15)
    assert api.get(LEASES, "Lease", namespace, "one")["spec"]["holderIdentity"] == "b"
