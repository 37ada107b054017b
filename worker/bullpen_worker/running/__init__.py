"""The hot path: fetches jobs, runs them in slots, writes what became of them and fetches the next in the same round trip."""
