#!/bin/sh
set -e
case $1 in
    remove | upgrade | deconfigure) dkms remove -m nvidia -v @DRIVER@ --all || true ;;
esac
