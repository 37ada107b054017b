"""Reconciles JobQueues on Kubernetes, and scales their workers."""
