"""The policy that a JobQueue's spec states."""

from typing import Any

import pytest

from bullpen.api.v1alpha1.jobqueue import JobQueueSpec
from bullpen.scaling import Behavior, Direction, Limit, ScalingPolicy, Window, policy_of

TARGET = {"name": "legacy", "slotsPerReplica": 5, "shrink": "WhenIdle"}
RULES = {"policies": [{"type": "Percent", "value": 10, "periodSeconds": 60}], "selectPolicy": "Min"}
OFFICE = {"name": "office", "schedule": "0 8 * * 1-5", "duration": "10h", "minReplicas": 2}


@pytest.mark.parametrize(
    ("name", "spec", "policy"),
    [
        ("without scaling", {"replicas": 4}, ScalingPolicy(mode="Manual", manual_replicas=4)),
        ("the least", {"scaling": {"maxReplicas": 20}}, ScalingPolicy(max_replicas=20)),
        (
            "slots",
            {"concurrency": {"perWorker": 4}, "scaling": {"maxReplicas": 20}},
            ScalingPolicy(max_replicas=20, slots=4, jobs_per_replica=4),
        ),
        (
            "somebody else's workers",
            {"scaleTargetRef": TARGET, "scaling": {"maxReplicas": 20}},
            ScalingPolicy(max_replicas=20, slots=5, jobs_per_replica=5, shrink_when_idle=True),
        ),
        (
            "all of it",
            {
                "replicas": 3,
                "scaling": {
                    "mode": "Hold",
                    "minReplicas": 1,
                    "maxReplicas": 20,
                    "wait": "30s",
                    "zeroAfter": "0s",
                    "behavior": {"scaleUp": {"stabilizationWindowSeconds": 5}, "scaleDown": RULES},
                    "windows": [OFFICE],
                },
            },
            ScalingPolicy(
                mode="Hold",
                min_replicas=1,
                max_replicas=20,
                wait_ms=30_000,
                zero_after_ms=0,
                behavior=Behavior(
                    up=Direction(window_ms=5_000),
                    down=Direction(
                        window_ms=60_000, limits=(Limit(kind="Percent", value=10, period_ms=60_000),), select="Min"
                    ),
                ),
                windows=(Window(name="office", schedule="0 8 * * 1-5", duration_ms=36_000_000, min_replicas=2),),
                manual_replicas=3,
            ),
        ),
    ],
)
def test_policy_of(name: str, spec: dict[str, Any], policy: ScalingPolicy) -> None:
    assert policy_of(JobQueueSpec.model_validate(spec)) == policy
