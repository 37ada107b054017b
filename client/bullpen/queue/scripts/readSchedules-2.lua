--[[
  Reads job schedulers, and what was declared of them.
    KEYS  owned, repeat
    ARGV  ids of schedulers; those that were declared before are read in any case
    Returns for each {id, what was declared or "", the scheduler's hash as a flat list}; of one that is larger than a JobQueue
    could have declared it, and of what is left when all are, as if there were none
]]
local LONGEST, MOST = 2 * 1024 * 1024, 1000
local room = 8 * 1024 * 1024
local seen, found = {}, {}
local function look(id)
  seen[id] = true
  local fields = {}
  if redis.call("ZSCORE", KEYS[2], id) then
    fields = redis.call("HGETALL", KEYS[2] .. ":" .. id)
  end
  local ours = redis.call("HGET", KEYS[1], "schedule:" .. id) or ""
  local size, fits = #id + #ours, #ours <= LONGEST and #fields <= MOST
  for _, field in ipairs(fields) do
    size, fits = size + #field, fits and #field <= LONGEST
  end
  if fits and size <= room then
    room = room - size
    return {id, ours, fields}
  end
end
for _, id in ipairs(ARGV) do
  if not seen[id] then
    found[#found + 1] = look(id) or {id, "", {}}
  end
end
for _, field in ipairs(redis.call("HKEYS", KEYS[1])) do
  local id = string.match(field, "^schedule:(.+)$")
  if id and not seen[id] and #found < MOST and #id <= LONGEST then
    found[#found + 1] = look(id)
  end
end
return found
