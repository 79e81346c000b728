#!/bin/sh
# Installs the Debian packages that the laboratory runs (packages.txt), as root, and lets none of their servers run on this machine:
# neither now (policy-rc.d, which Debian asks before it starts anything) nor after the next boot (what was newly enabled is disabled).
set -eu
cd "$(dirname "$0")"

policy=/usr/sbin/policy-rc.d
made=
enabled() { systemctl list-unit-files --state=enabled --no-legend 2>/dev/null | cut -d' ' -f1 | sort || true; }
finish() {
    [ -z "$made" ] || rm -f "$policy"
    rm -rf "$scratch"
}

scratch=$(mktemp -d)
trap finish EXIT
if [ ! -e "$policy" ]; then
    made=1
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

enabled >"$scratch/before"
# shellcheck disable=SC2046  # one word for each package
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(grep -v '^#' packages.txt) >/dev/null
enabled >"$scratch/after"
comm -13 "$scratch/before" "$scratch/after" | while read -r unit; do
    systemctl disable --quiet "$unit" || echo "$unit could not be disabled: it starts with the machine"
done
