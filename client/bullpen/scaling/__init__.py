"""How many workers a queue shall have: `decide`, a pure function that operator and `bullpen dev` share.

`Observation` is what is seen, `ScalingPolicy` what the JobQueue asks for, `History` what must be remembered; a
`Decision` gives the number, its reasons and the next history. `Settle` says when to decide after a queue has woken.
"""

from bullpen.scaling.decide import Decision, Limited, decide
from bullpen.scaling.history import History
from bullpen.scaling.observation import Observation, RateLimit
from bullpen.scaling.policy import Behavior, Direction, Limit, ScalingPolicy, policy_of
from bullpen.scaling.reasons import Reason
from bullpen.scaling.settle import Settle
from bullpen.scaling.windows import Window

__all__ = [
    "Behavior",
    "Decision",
    "Direction",
    "History",
    "Limit",
    "Limited",
    "Observation",
    "RateLimit",
    "Reason",
    "ScalingPolicy",
    "Settle",
    "Window",
    "decide",
    "policy_of",
]
