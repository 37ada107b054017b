--[[
  Lets go of a queue.
    KEYS  owner
    ARGV  the owner's id
    Returns 1, or 0 when it is not this owner's
]]
if redis.call("HGET", KEYS[1], "id") ~= ARGV[1] then
  return 0
end
redis.call("HSET", KEYS[1], "released", "1")
return 1
