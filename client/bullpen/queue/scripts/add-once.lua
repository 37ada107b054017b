-- What an add of BullMQ looks up, or marks, anew for each job; while a script runs it stays as it is. Of another queue too, where
-- the job has a parent there.
local lookUpMaxEvents, lookUpMaxed, markAlways = getOrSetMaxEvents, isQueuePausedOrMaxed, addBaseMarkerIfNeeded
local maxEvents, maxed, marked = {}, {}, {}

getOrSetMaxEvents = function(metaKey)
  maxEvents[metaKey] = maxEvents[metaKey] or lookUpMaxEvents(metaKey)
  return maxEvents[metaKey]
end

isQueuePausedOrMaxed = function(metaKey, activeKey)
  if maxed[metaKey] == nil then
    maxed[metaKey] = lookUpMaxed(metaKey, activeKey)
  end
  return maxed[metaKey]
end

addBaseMarkerIfNeeded = function(markerKey, isPausedOrMaxed)
  if not isPausedOrMaxed and not marked[markerKey] then
    markAlways(markerKey, isPausedOrMaxed)
    marked[markerKey] = true
  end
end
