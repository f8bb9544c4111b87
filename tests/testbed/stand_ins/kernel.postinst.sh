#!/bin/sh
# As in the real package, the hooks run when all else is configured: by a trigger on itself.
set -e
version=@KERNEL@
image_path=/boot/vmlinuz-$version
trigger=/usr/lib/linux/triggers/$version
if [ "$1" = triggered ]; then
    if [ -f $trigger ]; then
        sh $trigger
        rm -f $trigger
    fi
    exit 0
fi
[ "$1" = configure ] || exit 0
rm -f /lib/modules/$version/.fresh-install
# Of update-notifier-common, whose hook every Ubuntu server has.
echo "*** System restart required ***" >/run/reboot-required
for package in @PACKAGE@ linux-base; do
    grep -qsx $package /run/reboot-required.pkgs || echo $package >>/run/reboot-required.pkgs
done
if [ -d /etc/kernel/postinst.d ]; then
    mkdir -p ${trigger%/*}
    cat >$trigger <<END
DEB_MAINT_PARAMS="$*" run-parts --report --exit-on-error --arg=$version \
    --arg=$image_path /etc/kernel/postinst.d@MORE_POSTINST@
END
    dpkg-trigger --by-package=@PACKAGE@ linux-update-$version
fi
