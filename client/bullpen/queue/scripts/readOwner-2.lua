--[[
  Reads whose a queue is.
    KEYS  owner, owned
    Returns {the owner's id or "", what is remembered of pausing or ""}; of what is longer than any of ours, the beginning
]]
local LONGEST = 512
return {
  string.sub(redis.call("HGET", KEYS[1], "id") or "", 1, LONGEST),
  string.sub(redis.call("HGET", KEYS[2], "paused") or "", 1, LONGEST),
}
