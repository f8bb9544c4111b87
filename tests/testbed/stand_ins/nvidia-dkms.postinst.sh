#!/bin/sh
set -e
[ "$1" = configure ] || exit 0
echo "Loading new nvidia-@DRIVER@ DKMS files..."
dkms add -m nvidia -v @DRIVER@ >/dev/null
for tree in /lib/modules/*; do
    [ -d "$tree" ] || continue
    kernel=${tree##*/}
    if [ ! -d "/usr/src/linux-headers-$kernel" ] && [ ! -e "$tree/build" ]; then
        echo "Module build for kernel $kernel was skipped since the"
        echo "kernel headers for this kernel do not seem to be installed."
        continue
    fi
    echo "Building for $kernel"
    echo "Building initial module for $kernel"
    dkms install -m nvidia -v @DRIVER@ -k "$kernel" || exit $?
    echo "Done."
done
