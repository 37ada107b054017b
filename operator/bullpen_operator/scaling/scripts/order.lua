--[[
  Gives orders to retire, renews them, and lifts others; tells the workers where that is news to them.
    KEYS[1]  `retiring`
    ARGV[1]  the channel of nudges
    ARGV[2]  how long an order holds, in ms
    ARGV[3]  how many orders to give or renew: as many pairs of name and entry (JSON without `deadline`) follow
    …        the names whose orders are lifted
  Returns how many orders are new or lifted.
]]
local LIVES_MS = 300000
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local news, next = 0, 4
for _ = 1, tonumber(ARGV[3]) do
  local entry = string.format('{"deadline":%.0f,', now + tonumber(ARGV[2])) .. string.sub(ARGV[next + 1], 2)
  news = news + redis.call("HSET", KEYS[1], ARGV[next], entry)
  next = next + 2
end
for i = next, #ARGV do
  news = news + redis.call("HDEL", KEYS[1], ARGV[i])
end
redis.call("PEXPIRE", KEYS[1], LIVES_MS)
if news > 0 then
  redis.call("PUBLISH", ARGV[1], "retiring")
end
return news
