--[[
  Files jobs that came without a priority under the default one. BullMQ serves `wait` before `prioritized`, so they would
  go before the most urgent job.
    KEYS  wait, prioritized, pc, meta, marker
    ARGV  1 the queue's base with the colon · 2 the default level's number · 3 how many at most
  A job that has a priority of its own and lies in `wait` all the same (a bulk retry puts it there) gets that one back, unless it is
  none that BullMQ has. The oldest come first, so their order among themselves stays. A job leaves `wait` when it has been filed, so that
  an error half way loses none. Returns how many were filed.
]]
local rcall = redis.call
local filed = 0
for _ = 1, tonumber(ARGV[3]) do
  local id = rcall("LINDEX", KEYS[1], -1)
  if not id then
    break
  end
  local key = ARGV[1] .. id
  if rcall("TYPE", key)["ok"] == "hash" then
    local priority = tonumber(rcall("HGET", key, "priority")) or 0
    if not (priority >= 1 and priority <= 2097151) then
      priority = tonumber(ARGV[2])
      rcall("HSET", key, "priority", priority)
    end
    rcall("ZADD", KEYS[2], priority * 0x100000000 + rcall("INCR", KEYS[3]) % 0x100000000, id)
    filed = filed + 1
  end
  rcall("RPOP", KEYS[1])
end
if filed > 0 and rcall("HEXISTS", KEYS[4], "paused") == 0 then
  rcall("ZADD", KEYS[5], 0, "0")
end
return filed
