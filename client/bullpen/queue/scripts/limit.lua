--[[
  Stands between guard.lua and an add, where the queue has a limit of waiting jobs. Nothing has been written when it returns
  its code.
    KEYS, after the guard's:  wait, paused, prioritized
    ARGV, after the guard's:
      how many jobs may wait
      how many come that wait
      "1" drops the oldest to make room, else the newcomers are refused
      the queue's key base, with the colon
    Returns -103 when the queue is full
  Which jobs are dropped: the oldest of the least urgent priority first, those without a priority last, as they are
  served first. Never a child of a flow, whose parent would wait for ever, never a scheduler's run, which carries the
  schedule on, and never a job that one of the newcomers is a duplicate of: that newcomer adds nothing.
]]
do
  local waitKey, pausedKey, prioritizedKey = KEYS[guardKeys + 2], KEYS[guardKeys + 3], KEYS[guardKeys + 4]
  local limit, coming = tonumber(ARGV[guardArgs + 2]), tonumber(ARGV[guardArgs + 3])
  local excess = redis.call("LLEN", waitKey) + redis.call("LLEN", pausedKey) + redis.call("ZCARD", prioritizedKey) +
    coming - limit
  local spared = {}
  if excess > 0 then
    local there = 0
    local function lookFor(packed, opts)
      local job = cmsgpack.unpack(packed)
      local base, id, key = job[1], job[2], job[9]
      local found = redis.call("EXISTS", base .. id) == 1 and id
      local other = not found and key and redis.call("GET", key)
      if other and (redis.call("PTTL", key) > 0 or redis.call("EXISTS", base .. other) == 1) then
        local replaces = (cmsgpack.unpack(opts)["de"] or {})["replace"] and redis.call("ZSCORE", base .. "delayed", other)
        found = not replaces and other
      end
      if found then
        there = there + 1
        spared[found] = true
      end
    end
    if guardArgs > 0 then
      lookFor(ARGV[1], ARGV[3])
    else
      for i = 6, #ARGV, 4 do
        if ARGV[i] ~= "d" then
          lookFor(ARGV[i + 1], ARGV[i + 3])
        end
      end
    end
    excess = there < coming and excess - there or 0
  end
  if excess > 0 then
    if ARGV[guardArgs + 4] ~= "1" then
      return -103
    end
    local base = ARGV[guardArgs + 5]
    local victims = {}
    local function consider(id, state)
      local job = redis.call("HMGET", base .. id, "parentKey", "rjk", "deid")
      if not job[1] and not job[2] and not spared[id] then
        victims[#victims + 1] = {id, state, job[3]}
      end
    end
    local level = 0x100000000
    local below = "+inf"
    while #victims < excess do
      local last = redis.call("ZREVRANGEBYSCORE", prioritizedKey, below, "-inf", "WITHSCORES", "LIMIT", 0, 1)
      if not last[1] then
        break
      end
      local from = string.format("%.0f", math.floor(tonumber(last[2]) / level) * level)
      for _, id in ipairs(redis.call("ZRANGEBYSCORE", prioritizedKey, from, below, "LIMIT", 0, excess + 100)) do
        if #victims < excess then
          consider(id, "prioritized")
        end
      end
      below = "(" .. from
    end
    if #victims < excess then
      local oldest = redis.call("LRANGE", waitKey, -(excess + 100), -1)
      for i = #oldest, 1, -1 do
        if #victims < excess then
          consider(oldest[i], "wait")
        end
      end
    end
    if #victims < excess then
      return -103
    end
    for _, victim in ipairs(victims) do
      local id, state, deduplication = victim[1], victim[2], victim[3]
      local key = base .. id
      if state == "wait" then
        redis.call("LREM", waitKey, -1, id)
      else
        redis.call("ZREM", prioritizedKey, id)
      end
      if deduplication and redis.call("GET", base .. "de:" .. deduplication) == id then
        redis.call("DEL", base .. "de:" .. deduplication, base .. "dn:" .. deduplication)
      end
      redis.call("DEL", key, key .. ":logs", key .. ":dependencies", key .. ":processed", key .. ":failed",
        key .. ":unsuccessful")
      redis.call("XADD", base .. "events", "*", "event", "removed", "jobId", id, "prev", state)
    end
  end
end
