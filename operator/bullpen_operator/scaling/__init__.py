"""Scales the workers of JobQueues: observes all queues, decides, and carries out without cutting a job."""

from bullpen_operator.scaling.scaler import Scaler, ScalingMeter, Servers
from bullpen_operator.scaling.units import Crew, ScaleUnit, ScalingState, Target

__all__ = ["Crew", "ScaleUnit", "Scaler", "ScalingMeter", "ScalingState", "Servers", "Target"]
