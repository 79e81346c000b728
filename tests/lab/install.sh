#!/bin/sh
# Installs the Debian packages that the laboratory runs (packages.txt), as root, and lets none of their servers run on this machine:
# neither now (policy-rc.d, which Debian asks before it starts anything) nor after the next boot (what was newly enabled is disabled).
set -eu
cd "$(dirname "$0")"

policy=/usr/sbin/policy-rc.d
scratch=$(mktemp -d)
finish() {
    rm -f "$policy"
    [ ! -e "$scratch/policy" ] || mv "$scratch/policy" "$policy"
    rm -rf "$scratch"
}
units() { systemctl list-unit-files --state=enabled --no-legend 2>/dev/null | cut -d' ' -f1 | sort || true; }
scripts() { find /etc/rc2.d -name 'S*' 2>/dev/null | sed 's|.*/S[0-9]*||' | sort || true; } # exim4 has no unit

trap finish EXIT
[ ! -e "$policy" ] || mv "$policy" "$scratch/policy" # the machine's own may allow starts
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

units >"$scratch/units"
scripts >"$scratch/scripts"
# shellcheck disable=SC2046  # one word for each package
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(grep -v '^#' packages.txt) >/dev/null
units | comm -13 "$scratch/units" - | while read -r unit; do
    systemctl disable --quiet "$unit" || echo "$unit could not be disabled: it starts with the machine"
done
scripts | comm -13 "$scratch/scripts" - | while read -r script; do
    update-rc.d "$script" disable || echo "$script could not be disabled: it starts with the machine"
done
