-- A log id `<position>-<command>` as two numbers; both are exact in a double.
local function parse_id(id)
  local position, command = string.match(id, '^(%d+)-(%d+)')
  return tonumber(position), tonumber(command)
end

-- Whether one log id comes before another.
local function is_before(one, other)
  local position, command = parse_id(one)
  local other_position, other_command = parse_id(other)
  if position ~= other_position then return position < other_position end
  return command < other_command
end
