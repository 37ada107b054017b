--[[
  Cancels a job. One that does not run yet ends as failed, by BullMQ's own script, which stands before this as a
  function; of one that runs its worker is told.
    KEYS  those of moveToFinished-14, for the failed set; then cancelled
    ARGV  those of moveToFinished-14 (nine); then the entry for `cancelled`, the channel for nudges, how long `cancelled`
          is kept after the last write in ms, the queue's repeat key
    Returns
      "cancelled"  it had not started, and has ended now; or had by this call already
      "told"       it runs; its worker is told
      "scheduled"  it is the next run of a job scheduler, whose later runs would die with it: left as it is
      "completed", "failed", "waiting-children"  nothing was done
      "gone"       there is no such job
]]
local id, jobKey = ARGV[1], KEYS[12]
if redis.call("EXISTS", jobKey) == 0 then
  return "gone"
end
if redis.call("LPOS", KEYS[2], id) then
  -- It may end before its worker hears of it, and another come under its id: the order says which job is meant.
  local since = string.match(redis.call("HGET", jobKey, "timestamp") or "", "^%d+$")
  local order = since and string.sub(ARGV[10], 1, -2) .. ',"timestamp":' .. since .. "}" or ARGV[10]
  redis.call("HSET", KEYS[15], id, order)
  redis.call("PEXPIRE", KEYS[15], ARGV[12])
  redis.call("PUBLISH", ARGV[11], "cancelled")
  return "told"
end
if redis.call("ZSCORE", KEYS[11], id) then
  -- By this very call, sent again because its answer was lost.
  local ended = redis.call("HMGET", jobKey, "finishedOn", "failedReason")
  return ended[1] == ARGV[2] and ended[2] == ARGV[4] and "cancelled" or "failed"
end
if redis.call("HEXISTS", jobKey, "finishedOn") == 1 then
  return "completed"
end
local scheduler = redis.call("HGET", jobKey, "rjk")
if scheduler then
  local next = redis.call("ZSCORE", ARGV[13], scheduler)
  if next and id == "repeat:" .. scheduler .. ":" .. next then
    return "scheduled"
  end
end
if redis.call("ZREM", KEYS[3], id) == 0 and redis.call("ZREM", KEYS[7], id) == 0 and
  redis.call("LREM", KEYS[1], -1, id) == 0 and redis.call("LREM", KEYS[8], -1, id) == 0 then
  return "waiting-children"
end
redis.call("RPUSH", KEYS[2], id)
moveToFinished(KEYS, ARGV)
return "cancelled"
