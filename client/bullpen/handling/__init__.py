"""What runs a job: handlers and how they are registered, their context, one attempt, and how it ended."""
