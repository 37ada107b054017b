--[[
  Reads a job and its state at one moment.
    KEYS  those of BullMQ's getStateV2-8; then the job's hash
    ARGV  the job's id
    Returns {state, the hash as a flat list}; nothing when there is no such job
]]
local id = ARGV[1]
local hash = redis.call("HGETALL", KEYS[9])
if #hash == 0 then
  return nil
end
local sets = {{1, "completed"}, {2, "failed"}, {3, "delayed"}, {8, "prioritized"}}
for _, set in ipairs(sets) do
  if redis.call("ZSCORE", KEYS[set[1]], id) then
    return {set[2], hash}
  end
end
if redis.call("LPOS", KEYS[4], id) then
  return {"active", hash}
end
if redis.call("LPOS", KEYS[5], id) or redis.call("LPOS", KEYS[6], id) then
  return {"waiting", hash}
end
if redis.call("ZSCORE", KEYS[7], id) then
  return {"waiting-children", hash}
end
return {"unknown", hash}
