--[[
  Writes what a JobQueue says of its queue, if it is the queue's owner. Writes nothing that stands so already.
    KEYS  owner, owned, policy, meta, marker
    ARGV  1 the owner's id · 2 its uid, as information · 3 "1" takes the queue from whoever has it ·
          4 the policy's rev · 5 its doc · 6 msgpack: name, value, name, value … of what `meta` is to say ·
          7 what is wanted of `paused`: "1", "0", or "" to leave it to others · 8 the nudge channel
  `owned` holds what was written here, name by name: what is no longer wanted is removed only while it is still ours. That
  the queue is paused by its spec, or in order to be removed, stays there until the caller has resumed it: it may end before.
  Returns {"ours", name of what changed, …} or {"elsewhere", the owner's id, its beginning if it is none of ours}; with "pause" or "resume" among the names,
  the caller runs BullMQ's own script for it.
]]
local rcall = redis.call
local ownerKey, ownedKey, policyKey, metaKey, markerKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local time = rcall("TIME")
local now = string.format("%.0f", time[1] * 1000 + math.floor(time[2] / 1000))

local owner = rcall("HMGET", ownerKey, "id", "released")
if owner[1] and owner[1] ~= ARGV[1] and owner[2] ~= "1" and ARGV[3] ~= "1" then
  return {"elsewhere", string.sub(owner[1], 1, 512)}
end
rcall("HSET", ownerKey, "v", "1", "id", ARGV[1], "uid", ARGV[2], "at", now, "released", "0")

-- Whoever may use the queue may write these keys, too: of what stands there no more comes back than an honest one has.
local MOST_CHANGES, LONGEST_NAME = 1000, 512
local changed = {"ours"}
local owned = {}
local flat = rcall("HGETALL", ownedKey)
for i = 1, #flat, 2 do
  owned[flat[i]] = flat[i + 1]
end
rcall("HSET", ownedKey, "v", "1")

local wanted = cmsgpack.unpack(ARGV[6])
local named = {}
for i = 1, #wanted, 2 do
  local name, value = wanted[i], wanted[i + 1]
  named[name] = true
  if rcall("HGET", metaKey, name) ~= value then
    rcall("HSET", metaKey, name, value)
    changed[#changed + 1] = name
  end
  if owned["meta:" .. name] ~= value then
    rcall("HSET", ownedKey, "meta:" .. name, value)
  end
end
for field, value in pairs(owned) do
  local name = string.match(field, "^meta:(.+)$")
  if name and not named[name] then
    if rcall("HGET", metaKey, name) == value then
      rcall("HDEL", metaKey, name)
      if #changed < MOST_CHANGES then
        changed[#changed + 1] = string.sub(name, 1, LONGEST_NAME)
      end
    end
    rcall("HDEL", ownedKey, field)
  end
end

local paused = rcall("HEXISTS", metaKey, "paused") == 1
if ARGV[7] == "1" then
  if not paused then
    changed[#changed + 1] = "pause"
  end
  rcall("HSET", ownedKey, "paused", "1")
elseif owned["paused"] or owned["purging"] or (ARGV[7] == "0" and paused) then
  changed[#changed + 1] = "resume"
end

if rcall("HGET", policyKey, "rev") ~= ARGV[4] then
  rcall("HSET", policyKey, "v", "1", "rev", ARGV[4], "doc", ARGV[5])
  rcall("PUBLISH", ARGV[8], "policy")
  changed[#changed + 1] = "policy"
end
if #changed > 1 and not paused then
  -- A limit that was raised lets more jobs start, and nobody else says so: wake an idle worker.
  rcall("ZADD", markerKey, 0, "0")
end
return changed
