#!/bin/sh
set -e
[ "$1" = configure ] || exit 0
if [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null || true
fi
