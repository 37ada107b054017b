--[[
  Reads what a scaler has to know of one queue; writes nothing. Every command is O(1) or O(log n).
    KEYS[1]  the queue's `meta`
    ARGV[1]  the queue's key base, with the colon
    ARGV[2]  delayed jobs count as due when they start within so many ms
  Returns numbers, in the order of `bullpen.queue.observation.FIELDS`; -1 stands for "none".
]]
local base = ARGV[1]
local time = redis.call("TIME")
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

-- When the job began to wait: not its creation, where it was delayed or has been tried before.
local function since(id)
  if not id then
    return -1
  end
  local job = redis.call("HMGET", base .. id, "timestamp", "processedOn", "opts")
  local timestamp = tonumber(job[1])
  if not timestamp then
    return -1
  end
  local ok, opts = pcall(cjson.decode, job[3] or "{}")
  local delay = ok and type(opts) == "table" and tonumber(opts["delay"]) or 0
  return math.min(now, math.max(timestamp + delay, tonumber(job[2]) or 0))
end

local waiting = redis.call("LLEN", base .. "wait")
local prioritized = redis.call("ZCARD", base .. "prioritized")
local oldest = since(redis.call("LINDEX", base .. "wait", -1))
if prioritized > 0 then
  local first = since(redis.call("ZRANGE", base .. "prioritized", 0, 0)[1])
  if oldest == -1 or (first ~= -1 and first < oldest) then
    oldest = first
  end
end
local nextDue = redis.call("ZRANGE", base .. "delayed", 0, 0, "WITHSCORES")[2]
local meta = redis.call("HMGET", KEYS[1], "paused", "concurrency", "max", "duration")
local horizon = string.format("%.0f", (now + tonumber(ARGV[2])) * 4096 + 4095)

return {
  now,
  waiting,
  redis.call("LLEN", base .. "paused"),
  prioritized,
  redis.call("LLEN", base .. "active"),
  redis.call("ZCARD", base .. "delayed"),
  redis.call("ZCOUNT", base .. "delayed", "-inf", horizon),
  nextDue and math.floor(tonumber(nextDue) / 4096) or -1,
  redis.call("ZCOUNT", base .. "repeat", "-inf", string.format("%.0f", now + tonumber(ARGV[2]))),
  redis.call("ZCARD", base .. "waiting-children"),
  redis.call("ZCARD", base .. "completed"),
  redis.call("ZCARD", base .. "failed"),
  meta[1] and 1 or 0,
  tonumber(meta[2]) or -1,
  tonumber(meta[3]) or -1,
  tonumber(meta[4]) or -1,
  redis.call("PTTL", base .. "limiter"),
  oldest,
  tonumber(redis.call("HGET", base .. "metrics:completed", "count")) or -1,
  tonumber(redis.call("HGET", base .. "metrics:failed", "count")) or -1,
}
