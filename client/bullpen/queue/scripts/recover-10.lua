--[[
  Takes jobs back from workers that have died, in two calls: the first says what died, the second carries out what was
  decided about it. BullMQ's moveStalledJobsToWait-9 stands before this as a function and does the moving. Several
  workers may do this at once: a decision holds only for the start (`ats`) that it was made for.
    KEYS  those of moveStalledJobsToWait-9; then our `workers`
    ARGV  those of moveStalledJobsToWait-9 (four); then the decisions, msgpack: a list of
          {id, ats, "move" | "wait", flat list of fields to set}, or "" for none; then "1" to leave for the next check
          what no decision was made for
    Returns
      {"later", ms}   somebody has checked within the interval; the next check is due in ms
      {"dead", now, {{id, ats, pb, company, crashes, deaths}…}, {{pb, active, locked, longest lock ms, entry}…}}
                      nothing was changed: decide, then call again. The jobs are those in `active` without a lock that
                      the last check marked, and the others without a lock that the same workers held; the workers are
                      theirs, with all that they have in `active`
      {"done", {id…}} the dead are in wait again, and what runs now is marked for the next check
]]
local rcall = redis.call
local stalledKey, activeKey, base = KEYS[1], KEYS[3], ARGV[2]

if rcall("EXISTS", KEYS[4]) == 1 then
  return {"later", rcall("PTTL", KEYS[4])}
end

local marked = {}
for _, id in ipairs(rcall("SMEMBERS", stalledKey)) do
  if rcall("EXISTS", base .. id .. ":lock") == 0 then
    marked[#marked + 1] = id
  end
end

if #marked > 0 then
  local decisions = {}
  if ARGV[5] ~= "" then
    for _, decision in ipairs(cmsgpack.unpack(ARGV[5])) do
      decisions[decision[1]] = decision
    end
  end

  local active = rcall("LRANGE", activeKey, 0, -1)
  local isActive = {}
  for _, id in ipairs(active) do
    isActive[id] = true
  end

  local undecided = false
  local deadWorkers, ofNobody = {}, {}
  for _, id in ipairs(marked) do
    local job = rcall("HMGET", base .. id, "name", "pb", "ats")
    if not isActive[id] then
      rcall("SREM", stalledKey, id)
    elseif not job[1] then
      -- Removed while it ran. BullMQ would make a hash of a counter alone, and put that in wait.
      rcall("LREM", activeKey, 0, id)
      rcall("SREM", stalledKey, id)
      isActive[id] = nil
    else
      local decision = decisions[id]
      if not decision or decision[2] ~= (job[3] or "0") then
        if ARGV[6] == "1" then
          rcall("SREM", stalledKey, id)
        else
          undecided = true
        end
      end
      if job[2] then
        deadWorkers[job[2]] = true
      else
        ofNobody[#ofNobody + 1] = id
      end
    end
  end

  if undecided then
    local jobs, workers, order = {}, {}, {}
    local function describe(id)
      local job = rcall("HMGET", base .. id, "ats", "pb", "bullpen:company", "bullpen:crashes", "bullpen:deaths")
      jobs[#jobs + 1] = {id, job[1] or "0", job[2] or "", job[3] or "0", job[4] or "0", job[5] or ""}
    end
    for _, id in ipairs(ofNobody) do
      describe(id)
    end
    for _, id in ipairs(active) do
      local name = isActive[id] and rcall("HGET", base .. id, "pb")
      if name and deadWorkers[name] then
        local worker = workers[name]
        if not worker then
          worker = {name, 0, 0, 0, rcall("HGET", KEYS[10], name) or ""}
          workers[name] = worker
          order[#order + 1] = worker
        end
        worker[2] = worker[2] + 1
        local lock = rcall("PTTL", base .. id .. ":lock")
        if lock > 0 then
          worker[3] = worker[3] + 1
          worker[4] = math.max(worker[4], lock)
        else
          describe(id)
        end
      end
    end
    local now = rcall("TIME")
    return {"dead", now[1] * 1000 + math.floor(now[2] / 1000), jobs, order}
  end

  for id, decision in pairs(decisions) do
    local key = base .. id
    if isActive[id] and rcall("EXISTS", key .. ":lock") == 0 and (rcall("HGET", key, "ats") or "0") == decision[2] then
      if decision[3] == "move" then
        rcall("SADD", stalledKey, id)
        if #decision[4] > 0 then
          rcall("HSET", key, unpack(decision[4]))
        end
      else
        rcall("SREM", stalledKey, id)
      end
    end
  end
end

return {"done", moveStalledJobsToWait(KEYS, ARGV)}
