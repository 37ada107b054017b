"""Scales the workers of JobQueues: observes all queues, decides, and carries out without cutting a job."""
