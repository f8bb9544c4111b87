#!/bin/sh
# The real one links the modules here, out of linux-objects-nvidia and linux-signatures-nvidia: dpkg knows no owner.
set -e
[ "$1" = configure ] || exit 0
target=/lib/modules/@KERNEL@/kernel/nvidia-@BRANCH@
mkdir -p $target
for module in nvidia nvidia-drm nvidia-modeset nvidia-peermem nvidia-uvm; do
    printf '%s\n' @DRIVER@ @FLAVOUR@ signed >$target/$module.ko.part
    mv $target/$module.ko.part $target/$module.ko
done
