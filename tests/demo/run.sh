#!/usr/bin/env bash
# The demo: sample events become signed mails in the outbox, and are relayed to a server that catches them.
#
#     tests/demo/run.sh      (make demo)
#
# All it makes is in target/demo, or linked there, and stays until the next demo. The servers it starts end with it.
# It succeeds if every mail has a good signature, all were caught, and the database says the same.
set -euo pipefail
cd "$(dirname "$0")/../.."

export LC_ALL=C.UTF-8 PSQL_PAGER=cat
# What the user has set for other servers.
unset "${!PG@}"
demo=target/demo
programs=${CARGO_TARGET_DIR:-target}/release
sender=notifications@cert.example

# Ours is the text in bold, so that it is told from what the commands print.
bold='' plain=''
if [ -t 1 ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); fi

headline() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
say() { printf '%s\n' "$@"; }
die() {
    printf '\n%s\n' "$@" >&2
    exit 1
}

# Shows a command as one would type it, and runs it.
run() {
    printf '%s$ %s%s\n' "$bold" "$*" "$plain"
    eval "$*"
}
# The same; what it prints is broken or cut to fit on the screen. The exit code stays that of the command.
run_folded() { run "$@" 2>&1 | fold -s -w 79; }
run_head() { run "${@:2}" | sed -nE "s/^(.{78}).{2,}/\1…/; 1,$1p; $(($1 + 1))s/.*/…/p"; }

query() { psql --no-psqlrc --quiet --host "$short/postgres" --username "$1" --dbname intelmq-events "${@:2}"; }
number() { query outbox --tuples-only --no-align --command "$1"; }

# --- What is needed ---------------------------------------------------------------------------------------------------

tests/install.sh demo
headline "Building the two programs"
run cargo build --release --locked -p outbox-generator -p outbox-deliverer
SECONDS=0

# --- A place for it ---------------------------------------------------------------------------------------------------

if [ -L "$demo/run" ]; then
    # What an earlier demo left. If it was killed, its servers may still run.
    old=$(readlink "$demo/run")
    [[ $old == /tmp/outbox-demo.* ]] || die "$demo/run leads to $old, which is none of the demo's."
    tests/demo/servers.sh stop || die "Cannot stop the last demo's servers. Did another user start them?"
    gpgconf --homedir "$old/gnupg" --remove-socketdir 2>/dev/null || true
    rm -rf "$old"
fi
rm -rf "$demo"
mkdir -p "$demo"
# Unix sockets need a short path, and the user postgres, who runs the server when we are root, needs a way in.
short=$(mktemp -d /tmp/outbox-demo.XXXXXX)
ln -s "$short" "$demo/run"
chmod 711 "$short"
mkdir -m 700 "$short/gnupg" "$short/postgres"
[ "$(id -u)" != 0 ] || chown postgres:postgres "$short/postgres"

finish() {
    status=$?
    trap '' INT TERM HUP
    tests/demo/servers.sh stop >/dev/null || status=1
    if [ "$status" != 0 ]; then
        say "" "The demo failed, or was interrupted. What it made is in $demo;" "its servers are stopped." >&2
    fi
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

headline "A GnuPG home with a key that signs for the sender"
export GNUPGHOME=$short/gnupg
run "gpg --batch --quiet --passphrase '' --quick-generate-key \\
    'CERT Example <$sender>' ed25519 sign 1y" 2>"$demo/gpg.log"
key=$(gpg --list-keys --with-colons "$sender" 2>>"$demo/gpg.log" | awk -F: '$1 == "fpr" { print $10; exit }')
say "Key $key"

headline "A PostgreSQL server on a Unix socket, and a mail server that only catches"
run tests/demo/servers.sh start
say "PostgreSQL: $short/postgres" "Mail server: 127.0.0.1, port $(cat $demo/catcher.port)"

headline "A database as IntelMQ has it, and in it the sample events"
query postgres --dbname postgres --command 'CREATE DATABASE "intelmq-events"'
say "\$ psql intelmq-events -f sql/events.sql -f sql/notifications.sql"
query postgres --file sql/events.sql --file sql/notifications.sql
query postgres --command 'CREATE ROLE intelmq LOGIN IN ROLE eventdb_insert' \
    --command 'CREATE ROLE outbox LOGIN IN ROLE eventdb_send_notifications'
say "\$ psql intelmq-events -f tests/demo/load-events.sql \\" "    <tests/events/sample-events.jsonl"
query intelmq --file tests/demo/load-events.sql <tests/events/sample-events.jsonl
# Some formats wait a quarter of an hour for late directives. Whoever looks at a demo does not.
query postgres --command "UPDATE directives SET inserted_at = inserted_at - interval '1 hour'"
say "$(number 'SELECT count(*) FROM events') events;" \
    "their directives are pending: $(number 'SELECT count(*) FROM directives WHERE sent_id IS NULL')"

headline "A configuration"
cat >"$demo/outbox.conf" <<CONF
{
  "sender": "CERT Example <$sender>",
  "openpgp": {
    "always_sign": true,
    "gnupg_home": "$short/gnupg",
    "signing_key": "$key"
  },
  "database": {
    "event": {
      "name": "intelmq-events",
      "username": "outbox",
      "host": "$short/postgres"
    }
  },
  "template_dir": "$PWD/templates",
  "script_directory": "$PWD/templates/formats",
  "outbox": { "path": "$PWD/$demo/outbox" },
  "smtp": { "host": "127.0.0.1", "port": $(cat "$demo/catcher.port") }
}
CONF
# Where the key is (mutt's own "setenv" does not reach GPGME), and a mail folder that exists, or mutt asks to make one.
cat >"$demo/mutt" <<PROGRAM
#!/bin/sh
# mutt as it comes, with the GnuPG home of the demo. It needs a -f FOLDER.
GNUPGHOME='$short/gnupg' exec mutt -F /dev/null -e 'set folder="$PWD/$demo" mbox_type=Maildir' "\$@"
PROGRAM
chmod +x "$demo/mutt"
# The programs lay the user's ~/.intelmq/intelmq-mailgen.conf over any other file. No real relay must get in here.
mkdir "$demo/no-home"
for program in outbox-generator outbox-deliverer; do
    cat >"$demo/$program" <<PROGRAM
#!/bin/sh
# $program with the configuration of the demo. The user's own, in the home folder, is kept out of it.
HOME='$PWD/$demo/no-home' exec '$(realpath "$programs")/$program' --config '$PWD/$demo/outbox.conf' "\$@"
PROGRAM
    chmod +x "$demo/$program"
done
run cat $demo/outbox.conf
say "" "$demo/outbox-generator and $demo/outbox-deliverer are" \
    "the two programs with \"--config $demo/outbox.conf\"."

# --- From events to mails ---------------------------------------------------------------------------------------------

headline "An outbox is made once, by hand, and never by a program that misses one."
run "$demo/outbox-generator init"

headline "Is all there that the generator needs?"
run_folded "$demo/outbox-generator check"

headline "From pending directives to signed mails in the outbox"
status=0
run_folded "$demo/outbox-generator run --all" || status=$?
[ "$status" -le 1 ] || die "outbox-generator ended with exit code $status."
say "" "The ERROR lines are meant to be: a sample event asks for a report of a kind for" \
    "which there is no format. Its directive stays pending, is named in the log (hence" \
    "exit code 1), and holds up no other."
mails=$(grep -El '"mark_sent": ?true' "$demo"/outbox/sidecar/*.json | wc -l)
copies=$(grep -El '"mark_sent": ?false' "$demo"/outbox/sidecar/*.json | wc -l) || copies=0

headline "What waits in the outbox: $mails mails"
run_head 8 "$demo/outbox-deliverer list"

# One with an attachment shows best what is in a mail.
mail=$(grep -l 'filename=.*csv' "$demo"/outbox/new/* | head -n 1)
headline "One of them, a file in a Maildir"
run_head 34 "cat $mail"

headline "Its sidecar: who gets it, and which directives it is about"
run_head 40 "cat $demo/outbox/sidecar/${mail##*/}.json"

headline "Its signature"
mkdir "$demo/one-mail"
run "/usr/bin/python3 tests/demo/signed.py extract \\
    $mail \\
    $demo/one-mail"
run_folded "gpg --verify $demo/one-mail/signature.asc \\
    $demo/one-mail/signed-part"

headline "And all of them"
run /usr/bin/python3 tests/demo/signed.py verify $demo/outbox/new

headline "A person looks, holds one of them, and lets it go again"
ticket=$(sed -n 's/.*"ticket": *"\([^"]*\)".*/\1/p' "$demo/outbox/sidecar/${mail##*/}.json")
run_folded "$demo/outbox-deliverer hold $ticket"
run_folded "$demo/outbox-deliverer list --state held"
run_folded "$demo/outbox-deliverer release --state held"

# --- From the outbox to the relay -------------------------------------------------------------------------------------

headline "From the outbox to the relay"
run "$demo/outbox-deliverer run --once" 2>"$demo/deliverer.log" || { cat "$demo/deliverer.log"; exit 1; }
# The first lines, and the last.
sed -n '1,3p; 4s/.*/…/p; $p' "$demo/deliverer.log" | fold -s -w 79

headline "What the relay got"
caught=$(find "$demo/caught/new" -type f | wc -l)
say "$caught mails, of which $copies are copies for internal contacts. The first:"
first=$(find "$demo/caught/new" -type f | sort | head -n 1)
run_head 14 "cat $first"
run /usr/bin/python3 tests/demo/signed.py verify $demo/caught/new

headline "What the database says"
run "psql -h $short/postgres -U outbox intelmq-events -c \\
    'SELECT intelmq_ticket, sent_at, count(*) AS directives
       FROM sent JOIN directives ON sent_id = sent.id
      GROUP BY sent.id ORDER BY 1 LIMIT 5'"
sent=$(number "SELECT count(*) FROM sent")
marked=$(number "SELECT count(DISTINCT sent_id) FROM directives")

left=$(number "SELECT DISTINCT event_data_format FROM directives WHERE sent_id IS NULL ORDER BY 1")

headline "Does it add up?"
printf '%-58s %4d\n' \
    "mails written, without copies" "$mails" \
    "mails the relay got, without copies" $((caught - copies)) \
    "rows in sent" "$sent" \
    "of them with directives" "$marked"
same_bytes() {
    diff <(sums "$demo/caught/new") <(sums "$demo/outbox/sent") >/dev/null
}
sums() { find "$1" -type f -exec sha256sum {} + | cut -d' ' -f1 | sort; }
[ "$left" = login-attack_0.1.2 ] || die "More is pending than was meant to be:" "$left"
same_bytes || die "The relay did not get the very bytes that are in the archive."
say "The relay got the very bytes that are in the archive, $demo/outbox/sent."
if [ "$mails" = 0 ] || [ "$mails" != "$sent" ] || [ "$mails" != "$marked" ] || [ "$mails" != $((caught - copies)) ]; then
    die "It does not add up."
fi

headline "All well, in $SECONDS seconds. To go on by hand:"
cat <<END
# The two servers again, more events, and what would become of them:
  make demo-start
  psql -h $short/postgres -U intelmq intelmq-events \\
      -f tests/demo/load-events.sql <tests/events/sample-events.jsonl
  $demo/outbox-generator pending
# Write the mails, look at them (F flags one: it is held), relay the others:
  $demo/outbox-generator run --all
  $demo/mutt -f $demo/outbox
  $demo/outbox-deliverer list
  $demo/outbox-deliverer show TICKET
  $demo/outbox-deliverer run --once
# What was relayed, as archived and as caught, and the database:
  $demo/mutt -f $demo/outbox/sent
  $demo/mutt -f $demo/caught
  psql -h $short/postgres -U outbox intelmq-events
# The end (the next "make demo" removes everything):
  make demo-stop
END
