#!/bin/sh
set -e
version=@KERNEL@
image_path=/boot/vmlinuz-$version
rm -f /lib/modules/$version/.fresh-install
case $1 in
    remove | purge) ;;
    *) exit 0 ;;
esac
if [ -d /etc/kernel/postrm.d ]; then
    DEB_MAINT_PARAMS="$*" run-parts --report --exit-on-error --arg=$version \
        --arg=$image_path /etc/kernel/postrm.d
fi
if [ "$1" = purge ]; then
    rm -f /lib/modules/$version/modules.*
    rmdir /lib/modules/$version 2>/dev/null || true
fi
