"""A queue and its workers on a virtual clock: what a way of scaling would have made of given jobs.

`simulate` plays jobs through pods that a `Scaler` asks for; `Bullpen` is the scaler that decides as the operator does, by
`bullpen.scaling.decide`. All is pure and repeatable: the same jobs, scaler and seed give the same `Outcome`.
"""

from bullpen.scaling.simulation.own import Bullpen
from bullpen.scaling.simulation.world import Job, Look, Outcome, Scaler, Seen, Setting, simulate

__all__ = ["Bullpen", "Job", "Look", "Outcome", "Scaler", "Seen", "Setting", "simulate"]
