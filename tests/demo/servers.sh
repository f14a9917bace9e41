#!/usr/bin/env bash
# Starts and stops the servers of the demo that is in target/demo: PostgreSQL, and the one that catches mails.
#
#     tests/demo/servers.sh start|stop      (make demo-start, make demo-stop)
#
# Both may be called in any state: what runs already is left running, what does not run need not be stopped.
set -euo pipefail
cd "$(dirname "$0")/../.."

demo=$PWD/target/demo
[ -L "$demo/run" ] || { echo "There is no demo: make one with \"make demo\"." >&2; exit 1; }
# As /tmp/outbox-demo.…, since the path of a Unix socket has room for 107 bytes.
run=$(readlink "$demo/run")

# PostgreSQL refuses to run as root. It is started in / because the user postgres may not enter this folder.
# Debian keeps its programs out of PATH, one folder a version: the newest is taken.
postgres() {
    local as=() program
    [ "$(id -u)" != 0 ] || as=(setpriv --reuid postgres --regid postgres --init-groups)
    program=$(printf '%s\n' /usr/lib/postgresql/*/bin/"$1" | sort -V | tail -n 1)
    shift
    (cd / && "${as[@]}" "$program" --pgdata="$run/postgres/data" "$@")
}

catcher_runs() {
    [ -e "$demo/catcher.pid" ] && ! flock --nonblock "$demo/catcher.pid" true
}

start() {
    # A server caught half started would be missed by a stop. This takes a second; Ctrl-C counts after it.
    trap '' INT TERM HUP
    [ -d "$run/postgres" ] || { echo "$run is gone: make a new demo with \"make demo\"." >&2; exit 1; }
    if [ ! -d "$run/postgres/data" ]; then
        postgres initdb --username=postgres --auth=trust --encoding=UTF8 --locale=C.UTF-8 --no-sync >/dev/null
    fi
    if ! postgres pg_ctl status >/dev/null; then
        # Without TCP. Who may enter the folder of the socket, which is root or the user of the demo, may log in.
        postgres pg_ctl start --silent --wait --log="$run/postgres/log" \
            --options="-k '$run/postgres' -c listen_addresses='' -c timezone=UTC -c fsync=off" \
            || { tail -n 5 "$run/postgres/log" >&2; exit 1; }
    fi
    if ! catcher_runs; then
        # The port stays the same, since it stands in the configuration. `read` waits for the line that is printed once
        # the server listens, and fails when the server ends without. A session of its own: Ctrl-C is not for it.
        local port=0
        [ ! -e "$demo/catcher.port" ] || port=$(cat "$demo/catcher.port")
        exec 3< <(exec setsid /usr/bin/python3 "$demo/../../tests/demo/catcher.py" "$demo/caught" "$port" \
            "$demo/catcher.pid" </dev/null 2>>"$demo/catcher.log")
        read -r port <&3 || { tail -n 1 "$demo/catcher.log" >&2; exit 1; }
        exec 3<&-
        echo "$port" >"$demo/catcher.port"
    fi
}

stop() {
    if catcher_runs; then
        kill "$(cat "$demo/catcher.pid")"
        # It holds the lock until it has ended.
        flock --timeout 10 "$demo/catcher.pid" true
    fi
    if [ -d "$run/postgres/data" ] && postgres pg_ctl status >/dev/null; then
        postgres pg_ctl stop --silent --wait --mode=fast
    fi
    # gpg starts an agent, which would stay.
    [ ! -d "$run/gnupg" ] || gpgconf --homedir "$run/gnupg" --kill all
}

case ${1-} in
    start) start ;;
    stop) stop ;;
    *) echo "usage: tests/demo/servers.sh start|stop" >&2; exit 2 ;;
esac
