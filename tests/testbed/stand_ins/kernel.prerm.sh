#!/bin/sh
set -e
version=@KERNEL@
image_path=/boot/vmlinuz-$version
[ "$1" = remove ] || exit 0
# Of linux-base: it asks before the running kernel goes, and without a terminal refuses.
linux-check-removal $version
if [ -d /etc/kernel/prerm.d ]; then
    DEB_MAINT_PARAMS="$*" run-parts --report --exit-on-error --arg=$version \
        --arg=$image_path /etc/kernel/prerm.d
fi
