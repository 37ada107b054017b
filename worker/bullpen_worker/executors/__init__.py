"""Where handlers that are no coroutines run: threads, and processes of their own."""
