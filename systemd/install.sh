#!/bin/sh
# What `make install` and `make uninstall` do; the Makefile gives the folders. Everything is made beside the installation that is
# there and moved into place when it is whole, so an install that fails leaves the old one as it was. Files outside PREFIX are
# written down in PREFIX/share/netseq/installed, and uninstall takes away what is written there.
set -eu
umask 022  # the service's user must be able to read all of it, whatever whoever installs keeps for himself

home=$DESTDIR$PREFIX             # where the installation lies now; the machine that runs it knows it as $PREFIX
share=$PREFIX/share/netseq
config=$SYSCONFDIR/netseq/sensor.toml
rotation=$SYSCONFDIR/logrotate.d/netseq
new=$home.new

say() { echo "$*"; }
refuse() { echo "netseq: $*" >&2; exit 1; }

check_prefix() {
    case $PREFIX in /*/*) ;; *) refuse "PREFIX=$PREFIX: give netseq a folder of its own, such as /opt/netseq" ;; esac
    if [ -e "$home" ] && [ ! -e "$DESTDIR$share/installed" ] && [ -n "$(ls -A "$home")" ]; then
        refuse "$home: is there, and holds no netseq: give netseq a folder of its own (PREFIX=/opt/netseq)"
    fi
}

# The service runs as a user of its own and sees no home folder, so a Python in one is of no use to it.
check_python() {
    real=$("$PYTHON" -c 'import os, sys; print(os.path.realpath(sys.executable))')
    case $real in
        /root/* | /home/*) refuse "$real: a service cannot reach a Python in a home folder: make install PYTHON=/usr/bin/python3" ;;
    esac
}

# put MODE FILE PLACE: a file outside PREFIX, with the paths of this installation in it.
put() {
    mkdir -p "$DESTDIR$(dirname "$3")"
    sed -e "s|/opt/netseq|$PREFIX|g" -e "s|/etc/netseq|$SYSCONFDIR/netseq|g" "$2" >"$DESTDIR$3.part"
    chmod "$1" "$DESTDIR$3.part"
    mv -f "$DESTDIR$3.part" "$DESTDIR$3"
    echo "$3" >>"$new/share/netseq/installed"
}

# settle NAME PLACE: a file that people edit. The one there is replaced only if it is what an earlier install put there.
settle() {
    if [ ! -e "$DESTDIR$2" ] || cmp -s "$DESTDIR$share/$1" "$DESTDIR$2"; then
        mkdir -p "$DESTDIR$(dirname "$2")"
        cp "$new/share/netseq/$1" "$DESTDIR$2"
    elif ! cmp -s "$new/share/netseq/$1" "$DESTDIR$2"; then
        kept="$2 was edited, and stays as it is; the one that comes with this version is"
        if [ "$1" = sensor.toml ]; then
            cp "$new/share/netseq/$1" "$DESTDIR$2.new"
            say "$kept $2.new"
        else
            say "$kept $share/$1"
        fi
    fi
}

make_environment() {
    rm -rf "$new"
    mkdir -p "$(dirname "$new")"
    "$PYTHON" -m venv "$new"
    # From a copy: setuptools would leave build/ in the source folder, and take what an older version left there.
    cp -R setup.cfg pyproject.toml README.md LICENSE sensor models "$stage"
    find "$stage" -name __pycache__ -type d -prune -exec rm -rf {} +
    extras=${EXTRAS:+[$EXTRAS]}
    "$new/bin/python" -m pip install --quiet --disable-pip-version-check --no-warn-script-location \
        -c constraints.txt "$stage$extras"
    mkdir -p "$new/share/netseq"
    "$new/bin/python" -I -m sensor.commands.manual --output "$stage/manual"
    # Scripts name the Python of the folder they were made in; the installation runs from another.
    grep -rlIF "$new" "$new/bin" "$new/pyvenv.cfg" | while read -r file; do sed -i "s|$new|$PREFIX|g" "$file"; done
}

put_files() {
    for unit in netseq-sensor.service netseq-train.service netseq-train.timer; do put 644 systemd/$unit "$UNITDIR/$unit"; done
    put 644 systemd/sysusers.d/netseq.conf "$LIBDIR/sysusers.d/netseq.conf"
    put 644 systemd/tmpfiles.d/netseq.conf "$LIBDIR/tmpfiles.d/netseq.conf"
    for page in "$stage"/manual/man/*; do put 644 "$page" "$MANDIR/man${page##*.}/${page##*/}"; done
    for file in "$stage"/manual/bash/*; do put 644 "$file" "$DATADIR/bash-completion/completions/${file##*/}"; done
    for file in "$stage"/manual/zsh/*; do put 644 "$file" "$DATADIR/zsh/site-functions/${file##*/}"; done
    for file in "$stage"/manual/fish/*; do put 644 "$file" "$DATADIR/fish/vendor_completions.d/${file##*/}"; done
    mkdir -p "$DESTDIR$BINDIR"
    for command in "$new"/bin/netseq-*; do
        ln -sfn "$PREFIX/bin/${command##*/}" "$DESTDIR$BINDIR/${command##*/}"
        echo "$BINDIR/${command##*/}" >>"$new/share/netseq/installed"
    done
    if [ -d plugins ]; then cp -R plugins "$new/share/netseq/"; fi
    cp systemd/gpu.conf systemd/receivers.conf systemd/sensor.toml "$new/share/netseq/"
    cp systemd/logrotate/netseq "$new/share/netseq/logrotate"
    settle sensor.toml "$config"
    settle logrotate "$rotation"
}

install_netseq() {
    check_prefix
    check_python
    stage=$(mktemp -d)
    trap 'rm -rf "$stage" "$new"' EXIT
    say "installing into $home: downloads some hundred megabytes, once"
    make_environment
    old_files=$(cat "$DESTDIR$share/installed" 2>/dev/null || true)
    put_files
    # What an earlier version had and this one has not.
    echo "$old_files" | grep -vxFf "$new/share/netseq/installed" | while read -r file; do
        if [ -n "$file" ]; then rm -f "$DESTDIR$file"; fi
    done
    rm -rf "$home.old"
    if [ -e "$home" ]; then mv "$home" "$home.old"; fi
    mv "$new" "$home"
    rm -rf "$home.old"
    if on_this_machine; then
        systemd-sysusers
        systemd-tmpfiles --create "$LIBDIR/tmpfiles.d/netseq.conf"
        systemctl daemon-reload
    fi
    say "installed: settings are in $config"
}

on_this_machine() { [ -z "$DESTDIR" ] && [ "$(id -u)" = 0 ] && [ -d /run/systemd/system ]; }

uninstall_netseq() {
    [ -e "$DESTDIR$share/installed" ] || refuse "$home: holds no netseq, so nothing was taken away"
    if on_this_machine; then
        systemctl disable --quiet --now netseq-sensor.service netseq-train.timer netseq-train.service || true
    fi
    for file in sensor.toml:"$config" logrotate:"$rotation"; do
        if cmp -s "$DESTDIR$share/${file%%:*}" "$DESTDIR${file#*:}"; then
            rm -f "$DESTDIR${file#*:}"
        elif [ -e "$DESTDIR${file#*:}" ]; then
            say "kept: ${file#*:}, which was edited"
        fi
    done
    rm -f "$DESTDIR$config.new"  # the example of an upgrade
    while read -r file; do rm -f "$DESTDIR$file"; done <"$DESTDIR$share/installed"
    rm -rf "$home" "$DESTDIR/var/cache/netseq"
    rm -f "$DESTDIR/var/lib/systemd/timers/stamp-netseq-train.timer"  # when systemd started it last
    rmdir "$DESTDIR$SYSCONFDIR/netseq" 2>/dev/null || true
    for folder in /var/lib/netseq /var/log/netseq; do
        if [ -d "$DESTDIR$folder" ]; then say "kept: $folder"; fi
    done
    if on_this_machine; then systemctl daemon-reload; fi
}

case $1 in
    install) install_netseq ;;
    uninstall) uninstall_netseq ;;
    *) refuse "$1: install or uninstall" ;;
esac
