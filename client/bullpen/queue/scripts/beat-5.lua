--[[
  A worker says that it lives and learns what it is told, in one call.
    KEYS  workers, retiring, cancelled, policy, limiter
    ARGV  1 the queue's base with the colon · 2 the worker's name · 3 its entry as JSON, without the `at` that is set
          here by the server's clock · 4 how long `workers` lives after the last beat in ms · 5 after how many ms without
          a beat an entry is removed, orders to cancel what has ended with them, or "0" to look at none · 6 the rev of the policy that it knows · 7 the ids that it runs, msgpack ·
          8 the ids whose locks it lost lately, msgpack · 9 the ids whose attempts it was to cancel and has no more, msgpack
    Returns {now in ms, order to retire or "", rev of the policy or "", its doc when the rev is another or "",
             {id, entry, id, entry…} of what it runs and is to cancel,
             for how many ms more a handler, or Node's `rateLimit`, wants nothing of the queue to start: 0 for no such limit}
]]
local rcall = redis.call
local base, name = ARGV[1], ARGV[2]
local time = rcall("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)

if ARGV[3] == "" then
  rcall("HDEL", KEYS[1], name)
else
  rcall("HSET", KEYS[1], name, string.format('{"v":1,"at":%.0f,', now) .. string.sub(ARGV[3], 2))
  rcall("PEXPIRE", KEYS[1], ARGV[4])
end

local function hasEnded(id)
  return rcall("EXISTS", base .. id) == 0 or rcall("HEXISTS", base .. id, "finishedOn") == 1
end

local stale = tonumber(ARGV[5])
if stale > 0 then
  local entries = rcall("HGETALL", KEYS[1])
  for i = 1, #entries, 2 do
    local at = string.match(entries[i + 1], '"at":(%d+)')
    if not at or now - at > stale then
      rcall("HDEL", KEYS[1], entries[i])
    end
  end
  for _, id in ipairs(rcall("HKEYS", KEYS[3])) do
    if hasEnded(id) then
      rcall("HDEL", KEYS[3], id)
    end
  end
end

-- A lock that was lost by a worker that lives was no crash: what others noted of it is taken back.
for _, id in ipairs(cmsgpack.unpack(ARGV[8])) do
  local key = base .. id
  local deaths = rcall("HGET", key, "bullpen:deaths")
  if deaths then
    local rest, undone = {}, nil
    for entry in string.gmatch(deaths, "%S+") do
      if not undone and string.sub(entry, 3) == name then
        undone = string.sub(entry, 1, 1)
      else
        rest[#rest + 1] = entry
      end
    end
    if undone then
      rcall("HSET", key, "bullpen:deaths", table.concat(rest, " "))
      rcall("HINCRBY", key, undone == "c" and "bullpen:company" or "bullpen:crashes", -1)
      local counts = rcall("HMGET", key, "bullpen:company", "bullpen:crashes", "defa")
      if tonumber(counts[1] or 0) < 2 and tonumber(counts[2] or 0) < 1 then
        rcall("HDEL", key, "bullpen:suspect")
      end
      if counts[3] and string.sub(counts[3], 1, 12) == "quarantined:" then
        rcall("HDEL", key, "defa")
      end
    end
  end
end

-- One that was given back, went to another process or is to be tried again has not ended: the order is for its next attempt.
for _, id in ipairs(cmsgpack.unpack(ARGV[9])) do
  if hasEnded(id) then
    rcall("HDEL", KEYS[3], id)
  end
end
local cancelled = {}
local running = cmsgpack.unpack(ARGV[7])
if #running > 0 and rcall("EXISTS", KEYS[3]) == 1 then
  for _, id in ipairs(running) do
    local entry = rcall("HGET", KEYS[3], id)
    local since = entry and string.match(entry, ',"timestamp":(%d+)}$')
    if since and since ~= rcall("HGET", base .. id, "timestamp") then
      rcall("HDEL", KEYS[3], id)  -- it was for another, which had this id before
    elseif entry then
      cancelled[#cancelled + 1] = id
      cancelled[#cancelled + 1] = entry
    end
  end
end

local rev, doc = rcall("HGET", KEYS[4], "rev") or "", ""
if rev ~= ARGV[6] then
  doc = rcall("HGET", KEYS[4], "doc") or ""
end
-- The key counts starts where the queue has a rate limit; the greatest whole number of JavaScript says "start nothing".
local limited = 0
if tonumber(rcall("GET", KEYS[5]) or 0) >= 9007199254740991 then
  limited = math.max(rcall("PTTL", KEYS[5]), 0)
end
return {now, rcall("HGET", KEYS[2], name) or "", rev, doc, cancelled, limited}
