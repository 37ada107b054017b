"""Benchmarks: speed beside Node's BullMQ, its Python port and the bare Lua; latency; what idling costs. `make bench`."""
