"""A queue as it lies in Redis: its keys, Lua scripts and records, its policy, and the operations that read and write them."""
