--[[
  Stands in front of an add of a queue without a limit of waiting jobs. Nothing has been written when it returns its code.
    KEYS, after `guardKeys` of them:  policy
    ARGV, after `guardArgs` of them:  the policy's rev that the client went by; "" for none
    Returns -101 when the policy is another one now: read it, and add again
]]
if (redis.call("HGET", KEYS[guardKeys + 1], "rev") or "") ~= ARGV[guardArgs + 1] then
  return -101
end
