#!/bin/sh
# Stand-in of metal2model's test bed for the hook of dkms: a kernel goes, and with it what was built for it.
[ -n "$1" ] || exit 0
dkms unbuild -k "$1"
