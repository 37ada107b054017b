--[[
  Stands in front of BullMQ's functions where they run for many jobs: most of these have the same options, which are read and
  written once.
]]
local readAnew, writeAnew, decode = cmsgpack.unpack, cjson.encode, cjson.decode
local read, written = {}, {}

local cmsgpack = {unpack = function(text)
  local value = read[text]
  if value == nil then
    value = readAnew(text)
    read[text] = value
  end
  return value
end}

local cjson = {decode = decode, encode = function(value)
  local text = written[value]
  if text == nil then
    text = writeAnew(value)
    written[value] = text
  end
  return text
end}
