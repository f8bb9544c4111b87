#!/bin/sh
# Stand-in of metal2model's test bed: it stays when the driver has its version, and ends when not.
case $1 in
    --version | -v)
        echo "Fabric Manager version is : @DRIVER@"
        exit 0
        ;;
esac
if [ ! -r /proc/driver/nvidia/version ]; then
    echo "request to query NVSwitch device information from NVSwitch driver failed with error:WARNING Nothing to do [NV_WARN_NOTHING_TO_DO]" >&2
    exit 1
fi
loaded=$(sed -nE '/^NVRM/{s/.* ([0-9]+\.[0-9]+(\.[0-9]+)?) .*/\1/p;q}' /proc/driver/nvidia/version)
if [ "$loaded" != @DRIVER@ ]; then
    echo "fabric manager NVIDIA GPU driver interface version @DRIVER@ don't match with driver version $loaded. Please update with matching NVIDIA driver package." >&2
    exit 1
fi
exec sleep infinity
