#!/bin/sh
set -e
version=@KERNEL@
[ "$1" = configure ] || exit 0
if [ -d /etc/kernel/header_postinst.d ]; then
    DEB_MAINT_PARAMS="$*" run-parts --report --exit-on-error --arg=$version \
        --arg=/boot/vmlinuz-$version /etc/kernel/header_postinst.d@MORE_HEADERS@
fi
