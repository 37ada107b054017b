--[[
  Lets nothing of the queue start for a while, as BullMQ's `Queue.rateLimit` does; where that holds for longer already, it stays.
    KEYS  limiter
    ARGV  1 the value that says "start nothing" · 2 for how many ms
    Returns 1, or 0 when a longer one stays
]]
local value = redis.pcall("GET", KEYS[1])
if type(value) == "string" and (tonumber(value) or 0) >= tonumber(ARGV[1]) and
  redis.call("PTTL", KEYS[1]) >= tonumber(ARGV[2]) then
  return 0
end
redis.call("SET", KEYS[1], ARGV[1], "PX", ARGV[2])
return 1
