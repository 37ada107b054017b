"""Local mode: what the operator does with pods, done with processes on one machine."""
