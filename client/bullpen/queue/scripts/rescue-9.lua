--[[
  Puts a running job right after a script that was to write its end broke off: BullMQ's scripts take a job out of `active` before
  they put it elsewhere, and what they did stays done. A job that is nowhere is active again, its lock ours, no attempt counted.
    KEYS  the job, its lock, active, wait, paused, prioritized, delayed, completed, failed
    ARGV  1 the job's id · 2 the lock's token · 3 for how many ms to lock it · 4 how many attempts it had made
    Returns "gone" (no such job), "held" (active, with our lock), "restored", "elsewhere" (its end was written), or "lost" (the lock is
             gone, or somebody else's)
]]
local id, token = ARGV[1], ARGV[2]
if redis.call("EXISTS", KEYS[1]) == 0 then
  return "gone"
end
local lock = redis.call("GET", KEYS[2])
if lock and lock ~= token then
  return "lost"
end

-- A key of the wrong type may be what the script broke off at, so it is asked with pcall: the job is not in it.
local function listed(key)
  local found = redis.pcall("LPOS", key, id)
  return type(found) == "number"
end
local function sorted(key)
  return type(redis.pcall("ZSCORE", key, id)) == "string"
end

if listed(KEYS[3]) then
  return lock and "held" or "lost"
end
if listed(KEYS[4]) or listed(KEYS[5]) or sorted(KEYS[6]) or sorted(KEYS[7]) or sorted(KEYS[8]) or sorted(KEYS[9]) then
  return "elsewhere"
end
redis.call("LPUSH", KEYS[3], id)
redis.call("SET", KEYS[2], token, "PX", ARGV[3])
redis.call("HSET", KEYS[1], "atm", ARGV[4])
return "restored"
