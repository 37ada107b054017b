"""What clients ask of Redis, without I/O: see `bullpen.operations.base`."""
