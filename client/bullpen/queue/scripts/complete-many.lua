--[[
  Completes many jobs and fetches as many, one after the other, by BullMQ's "move to finished", which stands before this: its
  functions, and what it does with them as `moveToFinished`. What it does for each job, and once would do, is done once.
    KEYS  those of moveToFinished-14 without the job's own (12)
    ARGV  the queue's key base, the timestamp; then for each job its id, its returnvalue, the lock's token, and BullMQ's options
          (msgpack) without the token
    Returns a list: for each job what BullMQ's script returns, or the error that it raised, which is that job's alone
]]
local trimAlways, promoteAlways, collectAlways = trimEvents, promoteDelayedJobs, collectMetrics
local markAlways, lookAlways = addBaseMarkerIfNeeded, getQueueMetadata
local trimmed, promoted, looked = false, false, false
local marked = {}
local collected = 0

trimEvents = function(...)
  if not trimmed then
    trimAlways(...)
    trimmed = true
  end
end

promoteDelayedJobs = function(...)
  if not promoted then
    promoteAlways(...)
    promoted = true
  end
end

-- Of another queue too, where the job has a parent there.
addBaseMarkerIfNeeded = function(markerKey, isPausedOrMaxed)
  if not isPausedOrMaxed and not marked[markerKey] then
    markAlways(markerKey, isPausedOrMaxed)
    marked[markerKey] = true
  end
end

-- Whether a total concurrency is reached differs from job to job; all else stands while this script runs.
if not rcall("HGET", KEYS[9], "concurrency") then
  local isPausedOrMaxed, rateLimitMax, rateLimitDuration
  getQueueMetadata = function(...)
    if not looked then
      isPausedOrMaxed, rateLimitMax, rateLimitDuration = lookAlways(...)
      looked = true
    end
    return isPausedOrMaxed, rateLimitMax, rateLimitDuration
  end
end

collectMetrics = function(...)
  if collected == 0 then
    collectAlways(...)
  end
  collected = collected + 1
end

-- Redis before 7 writes the place in front of its own error.
local function errorOf(raised)
  local text = string.gsub(tostring(raised), "^@user_script: ?%d+: %-", "")
  return string.find(text, "^%u+ ") and text or "ERR " .. text
end

local base, timestamp = ARGV[1], ARGV[2]
local keys = {unpack(KEYS, 1, 11)}
keys[13], keys[14] = KEYS[12], KEYS[13]
local settings = {}
local unpacked = {unpack = function(options) return options end}
local replies = {}
for i = 3, #ARGV, 4 do
  local options = settings[ARGV[i + 3]]
  if not options then
    options = cmsgpack.unpack(ARGV[i + 3])
    settings[ARGV[i + 3]] = options
  end
  options["token"] = ARGV[i + 2]
  keys[12] = base .. ARGV[i]
  local done, reply = pcall(moveToFinished, keys,
    {ARGV[i], timestamp, "returnvalue", ARGV[i + 1], "completed", "1", base, options}, unpacked)
  replies[#replies + 1] = done and reply or {err = errorOf(reply)}
end
if collected > 1 then
  rcall("HINCRBY", KEYS[12], "count", collected - 1)
end
return replies
