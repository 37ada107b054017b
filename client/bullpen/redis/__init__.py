"""Everything that connects to Redis.

`settings` says where and as whom; `wire` is one pipelined connection; `link` keeps one alive; `health` examines the
server. The hot path is our own; redis-py (``import redis`` is that one, also in here) serves the sync client.
"""
