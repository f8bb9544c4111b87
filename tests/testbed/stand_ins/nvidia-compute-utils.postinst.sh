#!/bin/sh
set -e
[ "$1" = configure ] || exit 0
getent passwd nvidia-persistenced >/dev/null ||
    useradd --system --user-group --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin \
        --comment "NVIDIA Persistence Daemon,,," nvidia-persistenced
if [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null || true
fi
