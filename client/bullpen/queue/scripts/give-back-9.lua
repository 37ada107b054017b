--[[
  Puts a running job back to wait, no attempt spent, with what is to be remembered of it, and wakes a worker. BullMQ's
  moveJobFromActiveToWait-9 stands before this as a function; it writes no marker for a job with a priority.
    KEYS  those of moveJobFromActiveToWait-9
    ARGV  those of moveJobFromActiveToWait-9 (three); then a flat list of fields to set, msgpack, or ""
    Returns what BullMQ's script returns: 0 or more, or -1 gone, -2 no lock, -6 somebody else's lock
]]
local reply = moveJobFromActiveToWait(KEYS, ARGV)
if reply >= 0 then
  if ARGV[4] ~= "" then
    redis.call("HSET", ARGV[3], unpack(cmsgpack.unpack(ARGV[4])))
  end
  if redis.call("HEXISTS", KEYS[5], "paused") == 0 then
    redis.call("ZADD", KEYS[8], 0, "0")
  end
end
return reply
