#!/usr/bin/env bash
# Makes sure that what the project needs on Debian 12 is there: looks for Rust, installs the packages that are missing.
#
#     tests/install.sh demo      what `make demo` needs
#     tests/install.sh check     what `make check` and CI need: that, and what the tests use
#
# The only place that names packages. If all is there it says nothing and needs neither root nor network.
set -euo pipefail
cd "$(dirname "$0")/.."

die() {
    printf '%s\n' "$@" >&2
    exit 1
}

# For ring and the linker; for the bindings to gpgme; what the programs and the demo run.
packages=(gcc libc6-dev pkg-config libgpgme-dev ca-certificates
    gnupg gpg-agent postgresql mutt python3 python3-aiosmtpd)
case ${1-} in
    demo) ;;
    check) packages+=(postfix tmux strace libfaketime shellcheck systemd python3-yaml jq) ;;
    *) die "usage: tests/install.sh demo|check" ;;
esac

# Rust is not installed here: Debian 12's own is too old, and how to get another one is up to the user.
needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
found=$(rustc --version 2>/dev/null | cut -d' ' -f2) || found=
if [ -z "$found" ] || ! command -v cargo >/dev/null; then
    die "Found no cargo in PATH: Rust $needed or newer is needed (rustup installs it)."
elif [ "$(printf '%s\n' "$needed" "$found" | sort -V | head -n 1)" != "$needed" ]; then
    die "Rust $found is too old: $needed or newer is needed (rustup installs it)."
fi

if ! command -v dpkg-query >/dev/null; then
    echo "Not a Debian system. You need what these packages hold: ${packages[*]}"
    exit 0
fi

missing=()
for package in "${packages[@]}"; do
    status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) || status=
    [ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null \
        || die "These packages are missing, and there is no sudo. As root, run:" \
            "    apt-get install --no-install-recommends ${missing[*]}"
    as_root=(sudo)
fi

echo "Installing with ${as_root[*]-} apt-get: ${missing[*]}" | tr -s ' ' | fold -s -w 78
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# apt-get's output is for the case that it fails. It asks nothing, and it must not remove a mail server that is there
# (postfix conflicts with every other): then it ends with an error.
quietly() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive "$@" >"$log" 2>&1 </dev/null \
        || { cat "$log" >&2; die "This failed: $*"; }
}
if [[ " ${missing[*]} " == *" postfix "* ]]; then
    # The tests run an instance of their own. Without a configuration, Debian's does not start.
    echo "postfix postfix/main_mailer_type select No configuration" \
        | "${as_root[@]}" debconf-set-selections
fi
quietly apt-get --quiet --option DPkg::Lock::Timeout=300 update
quietly apt-get --quiet --yes --option DPkg::Lock::Timeout=300 \
    install --no-install-recommends --no-remove "${missing[@]}"
