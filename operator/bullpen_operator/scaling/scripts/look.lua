--[[
  Reads a queue for the scaler, at one instant: the last event first, then the counts (`observe`, put in front of this),
  then the crew. Writes nothing.
    KEYS[1]  the queue's `meta`
    ARGV[1]  the queue's key base, with the colon
    ARGV[2]  delayed jobs count as due when they start within so many ms
    ARGV[3]  read workers and orders, at most so many of each; 0: neither
    ARGV[4]  "1": read what was remembered
    ARGV[5]  how many bytes workers and orders may take together
  Returns {id of the last event, the counts, workers or false, orders or false, what was remembered or "", bytes, 1 where
  the queue has an owner, else 0}.
  Workers and orders are flat lists of names and entries; false where they were not asked for, or are too many. `bytes` is how
  many they take; -1 where that would be too many: then neither is there.
]]
local LONGEST_NAME, LONGEST_ENTRY = 300, 8192
local base, most, room, taken = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[5]), 0

local function bounded(key)
  if redis.call("HLEN", key) > most then
    return false
  end
  local flat, found = redis.call("HGETALL", key), {}
  for i = 1, #flat, 2 do
    if #flat[i] <= LONGEST_NAME and #flat[i + 1] <= LONGEST_ENTRY then
      found[#found + 1] = flat[i]
      found[#found + 1] = flat[i + 1]
      taken = taken + #flat[i] + #flat[i + 1]
    end
  end
  return found
end

local last = redis.call("XREVRANGE", base .. "events", "+", "-", "COUNT", 1)[1]
local counts = observe(KEYS, ARGV)
local workers, orders = false, false
if most > 0 then
  workers, orders = bounded(base .. "bullpen:workers"), bounded(base .. "bullpen:retiring")
  if taken > room then
    workers, orders, taken = false, false, -1
  end
end
local remembered = ""
if ARGV[4] == "1" then
  remembered = redis.call("GETRANGE", base .. "bullpen:scaling", 0, 65535)
end
local owned = redis.call("EXISTS", base .. "bullpen:owner")
return { last and last[1] or "0-0", counts, workers, orders, remembered, taken, owned }
