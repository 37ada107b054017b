"""The pages for those who offer Redis: every reason of a connection's conditions, every right of a tenant."""

import re

from bullpen_operator.connections import acl, health
from tests.docs.pages import ROOT

OFFER = (ROOT / "docs" / "how-to" / "offer-redis.md").read_text(encoding="utf-8")
RIGHTS = (ROOT / "docs" / "reference" / "redis-acl.md").read_text(encoding="utf-8")
CODE = ROOT / "operator" / "bullpen_operator" / "connections"
REASON = re.compile(
    r"""(?:Trouble|Verdict)\(\s*(?:"(?:True|False|Unknown)",\s*)?"(?!True|False|Unknown)([A-Z][A-Za-z]+)\""""
)


def test_every_reason_of_a_connection_is_explained():
    code = "".join((CODE / name).read_text(encoding="utf-8") for name in ("pool.py", "health.py", "controller.py"))
    reasons = {*REASON.findall(code), *health._REASONS.values(), "InvalidSpec", "NotYet", "ReplyTooLarge", "TimedOut"}
    assert len(reasons) > 15
    assert {reason for reason in reasons if f"`{reason}`" not in OFFER} == set()


def test_the_rights_of_a_tenant_are_listed_as_they_are():
    block = RIGHTS.split("```text")[1].split("```")[0]
    wanted = [*acl.CONNECTION, *acl.SINCE_7_2, *acl.CHANNELS, *acl.KEYS]
    assert sorted(re.findall(r"\+(\S+)", block)) == sorted(wanted)
