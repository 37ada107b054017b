"""The example on a real cluster, by its one command: four JobQueues, a producer with their bindings, and books that agree."""

import json

import pytest

from tests.support.e2e import images
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.e2e

STUDIO = images.PROJECT / "examples" / "studio"
BOOKS = """
import json
from pathlib import Path
from studio.ledger import Ledger
out = Path("/var/studio")
entries, _ = Ledger(out / "ledger.sqlite").totals()
print(json.dumps({"sketches": len(list((out / "sketches").glob("*.png"))), "mails": len(list((out / "mails").glob("*.eml"))), "entries": entries}))
"""


@pytest.fixture
def studio(api, kubectl, release, studio_image):
    """The studio, applied; gone after the test."""
    release.volume("studio", claim="studio/studio", user=10001)
    kubectl("apply", "--server-side", "-k", str(STUDIO))
    yield "studio"
    api.delete("v1", "Namespace", "", "studio")
    kubectl("wait", "--for=delete", "namespace/studio", "--timeout=180s", timeout=190)
    release.drop_volume("studio")


@pytest.mark.timeout(600)
def test_the_books_of_the_studio_agree(studio, kubectl, capsys):
    kubectl("wait", "-n", studio, "--for=condition=complete", "job/feed", "--timeout=300s", timeout=310)
    asked = json.loads(kubectl("logs", "-n", studio, "job/feed"))
    table = kubectl("get", "jobqueues", "-n", studio)
    with capsys.disabled():
        print(f"\n$ kubectl get jobqueues --namespace studio\n{table}")
    books = json.loads(kubectl("exec", "-n", studio, "deploy/outside", "--", "python", "-c", BOOKS))
    assert all(row["jobs"] == row["completed"] + row["failed"] for row in asked.values())
    assert asked["payment-processing"]["failed"] == 2
    assert books["sketches"] == asked["sketch-generation"]["completed"]
    assert books["mails"] == asked["email-notifications"]["completed"]
    assert books["entries"] == asked["payment-processing"]["completed"]
    # All but the one that is always kept go when there is nothing to do.
    rest = "jsonpath={.items[*].status.replicas}"
    eventually_sync(lambda: kubectl("get", "jobqueues", "-n", studio, "-o", rest).split() == ["0", "0", "1", "0"], 90)
