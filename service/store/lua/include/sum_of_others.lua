-- How many parameters the other models that are listed have together.
local function sum_of_others(models, sizes, name)
  local known, sum = redis.call('HGETALL', sizes), 0
  for index = 1, #known, 2 do
    if redis.call('HEXISTS', models, known[index]) == 0 then
      redis.call('HDEL', sizes, known[index])
    elseif known[index] ~= name then
      sum = sum + tonumber(known[index + 1])
    end
  end
  return sum
end
