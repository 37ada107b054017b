"""What applications enqueue and control jobs with: the asynchronous client, its synchronous twin, and what they share."""
