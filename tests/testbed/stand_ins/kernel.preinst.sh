#!/bin/sh
set -e
version=@KERNEL@
image_path=/boot/vmlinuz-$version
[ "$1" = install ] || exit 0
mkdir -p /lib/modules/$version
touch /lib/modules/$version/.fresh-install
if [ -d /etc/kernel/preinst.d ] || [ -n "@MORE_PREINST@" ]; then
    DEB_MAINT_PARAMS="$*" run-parts --report --exit-on-error --arg=$version \
        --arg=$image_path /etc/kernel/preinst.d@MORE_PREINST@
fi
