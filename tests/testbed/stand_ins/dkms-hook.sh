#!/bin/sh
# Stand-in of metal2model's test bed for the hook of dkms: a new kernel, or its headers, gets its modules.
set -e
[ -n "$1" ] || exit 0
if [ ! -d "/usr/src/linux-headers-$1" ] && [ ! -e "/lib/modules/$1/build" ]; then
    exit 0
fi
echo "dkms: running auto installation service for kernel $1." >&2
dkms autoinstall -k "$1" >&2
