--[[
  Lets a job that has ended wait anew, by BullMQ's own script, which stands before this as a function.
    KEYS, ARGV  those of reprocessJob-9
    Returns its code: 1, -1 no such job, -3 not in that set
  With the attempts go the counts that quarantine a job, and what the last failure left. An order to cancel it that came too late
  is forgotten.
]]
local code = reprocessJob(KEYS, ARGV)
if code == 1 then
  redis.call("HDEL", KEYS[1], "bullpen:error")
  redis.call("HDEL", string.sub(KEYS[1], 1, #KEYS[1] - #ARGV[1]) .. "bullpen:cancelled", ARGV[1])
  if ARGV[5] == "1" then
    redis.call("HDEL", KEYS[1], "stc", "bullpen:snoozes", "bullpen:company", "bullpen:suspect", "bullpen:crashes",
      "bullpen:unknown")
  end
end
return code
