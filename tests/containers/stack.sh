#!/bin/sh
# Brings up deploy/compose.yaml and proves it: a feed, the kill of each container, four web containers, and their
# reload without a failed request. Needs the image of smoke.sh, and docker compose or podman-compose.
#
#   COMPOSE="docker compose" sh tests/containers/stack.sh
#
# OVERRIDE is one more compose file, for other images.
set -eu
cd "$(dirname "$0")/../.."

ENGINE=${ENGINE:-$(command -v podman || command -v docker)}
COMPOSE=${COMPOSE:-$(docker compose version >/dev/null 2>&1 && echo "docker compose" || echo podman-compose)}
IMAGE=${IMAGE:-localhost/freshet:smoke}
HTTPS_PORT=${HTTPS_PORT:-18443}
$ENGINE tag "$IMAGE" freshet
FRESHET_ADMIN_KEY=$($ENGINE run --rm freshet keys token)
export FRESHET_ADMIN_KEY FRESHET_HTTPS_PORT="$HTTPS_PORT" COMPOSE_PROJECT_NAME=freshet-stack

say() { printf '\n== %s\n' "$*"; }

fail() {
    echo "FAILED: $*" >&2
    for id in $(containers .); do
        $ENGINE logs "$id" 2>&1 | tail -n 15 >&2
    done
    exit 1
}

# shellcheck disable=SC2086
compose() { $COMPOSE -f deploy/compose.yaml ${OVERRIDE:+-f $OVERRIDE} "$@"; }

# The containers of a service.
containers() { $ENGINE ps --all --format '{{.Names}}' | grep "freshet-stack[_-]$1" || true; }

clean() {
    # podman-compose does not know the containers that --scale has added, nor ends what they use.
    for id in $(containers .); do $ENGINE rm --force "$id" >/dev/null 2>&1 || true; done
    compose down --volumes >/dev/null 2>&1 || true
}
trap clean EXIT INT TERM
clean  # what a run that was killed has left

# Ask through the proxy: PATH, options of curl.
ask() {
    path=$1
    shift
    curl --silent --insecure --max-time 10 -H "Authorization: Bearer $FRESHET_ADMIN_KEY" "$@" "https://localhost:$HTTPS_PORT$path"
}

await_step() {
    for _ in $(seq 240); do
        case $(ask /v1/models/m || true) in *"\"step\":$1,"*) echo "ok: step $1" && return ;; esac
        sleep 0.5
    done
    fail "not at step $1: $(ask /v1/models/m)"
}

rows() { awk 'BEGIN { srand(7); print "a,b,label"; while (n++ < 500) { a = rand(); b = rand(); print a "," b "," (a > b) } }'; }

# Feed 500 rows from inside another container than the one that was killed: SERVICE, options.
feed() {
    case $1 in learner) from=trainer ;; *) from=learner ;; esac
    shift
    from=$(containers $from | head -n 1)
    rows | $ENGINE exec --interactive --env FRESHET_KEY="$FRESHET_ADMIN_KEY" "$from" \
        freshet feed - --model m --url http://web:8000 --wait 120 "$@" || fail "feed"
}

say "up"
compose up --detach
for _ in $(seq 240); do
    ask /readyz | grep -q '"status":"ok"' && break
    sleep 0.5
done
ask /readyz | grep -q '"status":"ok"' || fail "not ready: $(ask /readyz)"
feed none --create binary
await_step 500

step=500
for service in learner trainer web valkey proxy; do
    say "kill $service"
    kill -KILL "$($ENGINE inspect --format '{{.State.Pid}}' "$(containers $service | head -n 1)")"
    feed "$service"
    step=$((step + 500))
    await_step "$step"
done

say "four web containers"
compose up --detach --scale web=4
[ "$(containers web | wc -l)" = 4 ] || fail "$(containers web)"
for _ in $(seq 120); do
    healthy=0
    for web in $(containers web); do
        $ENGINE exec "$web" freshet health 2>/dev/null && healthy=$((healthy + 1))
    done
    [ "$healthy" = 4 ] && break
    sleep 0.5
done
[ "$healthy" = 4 ] || fail "$healthy of 4 answer"

say "a reload of each, under requests"
failed=$(mktemp)
(while [ -e "$failed" ]; do
    status=$(ask /v1/models/m/predict -H 'Content-Type: application/json' -d '{"instances": [[1, 0]]}' -o /dev/null -w '%{http_code}' || true)
    [ "$status" = 200 ] || echo "$status" >>"$failed"
    echo . >>"$failed.sent"
done) &
for web in $(containers web); do
    $ENGINE kill --signal HUP "$web" >/dev/null
    sleep 3
done
sent=$(wc -l <"$failed.sent")
problems=$(cat "$failed")
rm "$failed"
wait
rm -f "$failed.sent"
echo "$sent requests"
[ -z "$problems" ] || fail "not answered by 200: $problems"
[ "$sent" -gt 20 ] || fail "only $sent requests"

say "all well"
