#!/bin/sh
# The spread-out cluster as plain processes on this machine: etcd, a controller, two workers, a gateway.
#
#   deploy/cluster.sh start [MODELS]    the first worker offers MODELS (default: the demo's); the second gets artifacts from it
#   deploy/cluster.sh status
#   deploy/cluster.sh stop
#
# Environment: SLUICE (the binary; default target/release/sluice), SLUICE_DIR (state and logs; default ./sluice-cluster),
# ETCD (default the fetched one, else the one on PATH).
set -eu

cache=${SLUICE_CACHE:-$HOME/.cache/sluice}
dir=${SLUICE_DIR:-./sluice-cluster}
sluice=${SLUICE:-target/release/sluice}
etcd=${ETCD:-$(find "$cache/etcd" -name etcd -type f 2>/dev/null | sort | tail -n 1)}
etcd=${etcd:-$(command -v etcd || true)}
url=http://127.0.0.1:2379
parts="etcd controller worker1 worker2 gateway"

say() { printf '%s\n' "$*"; }
fail() { say "cluster: $*" >&2; exit 1; }

# The process of a pid file, if it still is one of ours: numbers are used again.
alive() {
    [ -f "$dir/$1.pid" ] && tr '\0' ' ' <"/proc/$(cat "$dir/$1.pid")/cmdline" 2>/dev/null | grep -q 'sluice\|etcd'
}

# launch NAME COMMAND…: in the background, with a pid file and a log.
launch() {
    name=$1
    shift
    if alive "$name"; then
        say "$name runs already (pid $(cat "$dir/$name.pid"))"
        return
    fi
    nohup "$@" >"$dir/$name.log" 2>&1 </dev/null &
    echo $! >"$dir/$name.pid"
    say "$name started (pid $!, log $dir/$name.log)"
}

start() {
    models=${1:-$cache/models/demo}
    [ -x "$sluice" ] || fail "$sluice is not there; run: cargo build --release -p sluice"
    [ -n "$etcd" ] || fail "etcd is not there; run: cargo xtask fetch --only etcd"
    [ -d "$models" ] || fail "$models is not a directory; run: cargo xtask fetch, or name your own"
    mkdir -p "$dir"
    cluster="--etcd $url --cluster demo"
    launch etcd "$etcd" --data-dir "$dir/etcd" --listen-client-urls "$url" --advertise-client-urls "$url" \
        --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
        --initial-cluster default=http://127.0.0.1:2380
    # shellcheck disable=SC2086  # $cluster is several words
    {
        launch controller "$sluice" controller $cluster --id c1 --admin 127.0.0.1:8202
        launch worker1 "$sluice" worker $cluster --id w1 --listen 127.0.0.1:8101 --admin 127.0.0.1:8102 --data-dir "$dir/w1" --models "$models"
        launch worker2 "$sluice" worker $cluster --id w2 --listen 127.0.0.1:8111 --admin 127.0.0.1:8112 --data-dir "$dir/w2"
        launch gateway "$sluice" gateway $cluster --grpc 127.0.0.1:8001 --admin 127.0.0.1:8002 --data-dir "$dir/gateway"
    }
    tries=0
    until ready; do
        tries=$((tries + 1))
        [ "$tries" -lt 240 ] || fail "not ready after two minutes; see $dir/*.log"
        for part in $parts; do
            alive "$part" || fail "$part ended: $(tail -n 3 "$dir/$part.log")"
        done
        sleep 0.5
    done
    say "ready: HTTP 127.0.0.1:8000, gRPC 127.0.0.1:8001, admin and metrics 127.0.0.1:8002"
}

# Both workers have every replica that was placed on them.
ready() {
    placed=$("$sluice" get placements 2>/dev/null | tail -n +2 | grep -c . || true)
    warm=$("$sluice" get replicas 2>/dev/null | grep -c ' ready ' || true)
    [ "$placed" -gt 0 ] && [ "$placed" = "$warm" ]
}

status() {
    for part in $parts; do
        if alive "$part"; then say "$part: runs (pid $(cat "$dir/$part.pid"))"; else say "$part: stopped"; fi
    done
    if alive gateway; then "$sluice" get replicas; fi
}

stop() {
    for part in gateway worker2 worker1 controller etcd; do
        if alive "$part"; then
            pid=$(cat "$dir/$part.pid")
            kill "$pid"
            tries=0
            while kill -0 "$pid" 2>/dev/null; do
                tries=$((tries + 1))
                [ "$tries" -lt 400 ] || kill -9 "$pid" # its own drain ends long before
                sleep 0.1
            done
            say "$part stopped"
        fi
        rm -f "$dir/$part.pid"
    done
}

case ${1:-} in
    start) shift; start "$@" ;;
    status) status ;;
    stop) stop ;;
    *) fail "usage: deploy/cluster.sh start [MODELS] | status | stop" ;;
esac
