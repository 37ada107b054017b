"""What a worker tells of itself: metrics, probes, structured logs."""
