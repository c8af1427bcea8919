-- Whether a learner still leads the model: same generation, same term.
local function leads(meta, lease, generation, term)
  return redis.call('HGET', meta, 'generation') == generation and redis.call('HGET', lease, 'term') == term
end
