-- wrk: prepared bodies in turn, answers by status, and the result as one line of JSON.
-- BODIES is a file with one JSON body a line.

local threads = {}
local requests, place = {}, 0

function setup(thread)
  threads[#threads + 1] = thread
end

function init()
  wrk.method, wrk.headers["Content-Type"] = "POST", "application/json"
  for body in io.lines(os.getenv("BODIES")) do
    requests[#requests + 1] = wrk.format(nil, nil, nil, body)
  end
  counts = {}  -- global: read by `done`
end

function request()
  place = place % #requests + 1
  return requests[place]
end

function response(status)
  counts[status] = (counts[status] or 0) + 1
end

function done(summary, latency)
  local statuses = {}
  for _, thread in ipairs(threads) do
    for status, count in pairs(thread:get("counts")) do statuses[status] = (statuses[status] or 0) + count end
  end
  local parts, answered = {}, 0
  for status, count in pairs(statuses) do
    parts[#parts + 1] = string.format('"%d": %d', status, count)
    answered = answered + count
  end
  local errors = summary.errors
  io.write(string.format(
    '\n{"generator": "wrk", "statuses": {%s}, "seconds": %f, "requests": %d, "answered": %d, "rate": %f, "p50_ms": %f, '
      .. '"p99_ms": %f, "max_ms": %f, "broken": %d, "unanswered": %d}\n',
    table.concat(parts, ", "), summary.duration / 1e6, answered, answered, answered / (summary.duration / 1e6),
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3,
    errors.connect + errors.read + errors.write, errors.timeout))
end
