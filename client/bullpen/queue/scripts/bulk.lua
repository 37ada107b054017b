--[[
  Adds many jobs by BullMQ's own scripts, which stand before this as functions of `bullmq`; before them the guard.
    KEYS  wait, paused, meta, id, completed, delayed, active, events, marker, prioritized, pc; then the guard's
    ARGV  the guard's; then, from `firstJob` on, for each job "s" (standard), "d" (delayed) or "p" (prioritized), and the
          three arguments of BullMQ's script
    Returns a list: for each job what BullMQ's script returned
]]
local standard = {KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]}
local delayed = {KEYS[9], KEYS[3], KEYS[4], KEYS[6], KEYS[5], KEYS[8]}
local prioritized = {KEYS[9], KEYS[3], KEYS[4], KEYS[10], KEYS[6], KEYS[5], KEYS[7], KEYS[8], KEYS[11]}
local replies = {}
for i = firstJob, #ARGV, 4 do
  local args = {ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]}
  if ARGV[i] == "s" then
    replies[#replies + 1] = bullmq["addStandardJob-9"](standard, args)
  elseif ARGV[i] == "d" then
    replies[#replies + 1] = bullmq["addDelayedJob-6"](delayed, args)
  else
    replies[#replies + 1] = bullmq["addPrioritizedJob-9"](prioritized, args)
  end
end
return replies
