"""What keeps running jobs theirs: locks, recovery of jobs whose worker died, heartbeats and the orders that come back."""
