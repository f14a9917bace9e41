#!/usr/bin/env bash
# Whether the shipped systemd units are right: systemd takes every line of them, and rates each service's exposure
# under 2.0.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v systemd-analyze >/dev/null || { echo "systemd-analyze is not there: units are not checked"; exit 0; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# The programs need not be installed for this.
for unit in deliverer/outbox-deliverer.service generator/outbox-generator.{service,timer}; do
    sed 's|/usr/local/bin/outbox-[a-z]*|/bin/true|' "$unit" >"$folder/${unit##*/}"
done

# It also ends well with a line that it does not know, but never without a word then.
if ! said=$(systemd-analyze verify --man=no "$folder"/outbox-* 2>&1) || [ -n "$said" ]; then
    printf 'systemd finds fault with a unit:\n%s\n' "$said" >&2
    exit 1
fi

for unit in "$folder"/*.service; do
    # Ends with an error above the threshold, in tenths.
    if ! rated=$(systemd-analyze security --no-pager --offline=true --threshold=20 "$unit" 2>&1); then
        printf '%s\n' "$rated" >&2
        exit 1
    fi
    printf '%s\n' "$rated" | tail -n 1
done
