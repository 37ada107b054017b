--[[
  Reads job schedulers, and what was declared of them.
    KEYS  owned, repeat
    ARGV  ids of schedulers; those that were declared before are read in any case
    Returns for each {id, what was declared or "", the scheduler's hash as a flat list}
]]
local seen, found = {}, {}
local function look(id)
  if not seen[id] then
    seen[id] = true
    local fields = {}
    if redis.call("ZSCORE", KEYS[2], id) then
      fields = redis.call("HGETALL", KEYS[2] .. ":" .. id)
    end
    found[#found + 1] = {id, redis.call("HGET", KEYS[1], "schedule:" .. id) or "", fields}
  end
end
for _, id in ipairs(ARGV) do
  look(id)
end
for _, field in ipairs(redis.call("HKEYS", KEYS[1])) do
  local id = string.match(field, "^schedule:(.+)$")
  if id then
    look(id)
  end
end
return found
