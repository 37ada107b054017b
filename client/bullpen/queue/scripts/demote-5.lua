--[[
  Files jobs that came without a priority under the default one. BullMQ serves `wait` before `prioritized`, so they would
  go before the most urgent job.
    KEYS  wait, prioritized, pc, meta, marker
    ARGV  1 the queue's base with the colon · 2 the default level's number · 3 how many at most
  A job that has a priority of its own and lies in `wait` all the same (a bulk retry puts it there) gets that one back.
  The oldest come first, so their order among themselves stays. Returns how many were filed.
]]
local rcall = redis.call
local filed = 0
for _ = 1, tonumber(ARGV[3]) do
  local id = rcall("RPOP", KEYS[1])
  if not id then
    break
  end
  local key = ARGV[1] .. id
  if rcall("EXISTS", key) == 1 then
    local priority = tonumber(rcall("HGET", key, "priority")) or 0
    if priority <= 0 then
      priority = tonumber(ARGV[2])
      rcall("HSET", key, "priority", priority)
    end
    rcall("ZADD", KEYS[2], priority * 0x100000000 + rcall("INCR", KEYS[3]) % 0x100000000, id)
    filed = filed + 1
  end
end
if filed > 0 and rcall("HEXISTS", KEYS[4], "paused") == 0 then
  rcall("ZADD", KEYS[5], 0, "0")
end
return filed
