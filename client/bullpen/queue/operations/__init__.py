"""What clients ask of Redis, without I/O: see `bullpen.queue.operations.base`."""
