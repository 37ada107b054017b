--[[
  Fails a running job in the plainest way, where Redis refuses BullMQ's script for it. That it has failed is remembered first
  (`defa`), so that its handler is not called again even where this cannot be finished either.
    KEYS  the job, its lock, active, failed, events, marker
    ARGV  1 the job's id · 2 the lock's token · 3 now in ms · 4 the reason · 5 the field for the class of its error · 6 its value
    Returns 1 when it has failed; 0 when it has not, because the lock is not ours, or because of what is in `failed`
]]
local id = ARGV[1]
if redis.call("GET", KEYS[2]) ~= ARGV[2] then
  return 0
end
redis.call("HSET", KEYS[1], "defa", ARGV[4])
local added = redis.pcall("ZADD", KEYS[4], ARGV[3], id)
if type(added) ~= "number" then
  return 0
end
redis.call("LREM", KEYS[3], 0, id)
redis.call("DEL", KEYS[2])
redis.call("HSET", KEYS[1], "failedReason", ARGV[4], "finishedOn", ARGV[3], ARGV[5], ARGV[6])
redis.call("HDEL", KEYS[1], "defa")
redis.pcall("HINCRBY", KEYS[1], "atm", 1)
redis.pcall("XADD", KEYS[5], "*", "event", "failed", "jobId", id, "failedReason", ARGV[4], "prev", "active")
redis.pcall("ZADD", KEYS[6], 0, "0")  -- it may have held a place of the queue's total concurrency
return 1
