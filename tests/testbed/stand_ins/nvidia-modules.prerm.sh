#!/bin/sh
set -e
[ "$1" = remove ] || exit 0
rm -f /lib/modules/@KERNEL@/kernel/nvidia-@BRANCH@/*.ko
