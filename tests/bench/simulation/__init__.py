"""Bullpen's scaling beside KEDA's and the HPA's, on the same jobs: ``python -m tests.bench.simulation``."""
