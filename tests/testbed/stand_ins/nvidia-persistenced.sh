#!/bin/sh
# Stand-in of metal2model's test bed: a daemon that does nothing but stay. nvidia-smi looks at what it was told.
run=/run/nvidia-persistenced
mode=on
while [ $# -gt 0 ]; do
    case $1 in
        --persistence-mode) mode=on ;;
        --no-persistence-mode) mode=off ;;
        --user | -u) shift ;;
        --user=* | --verbose | -V | --uvm-persistence-mode) ;;
        --version | -v)
            echo "nvidia-persistenced:  version @DRIVER@"
            exit 0
            ;;
        *)
            echo "nvidia-persistenced: unrecognized option: \"$1\"" >&2
            exit 1
            ;;
    esac
    shift
done
if [ ! -r /proc/driver/nvidia/version ]; then
    echo "nvidia-persistenced failed to initialize. Check syslog for more details." >&2
    exit 1
fi
mkdir -p $run
rm -f $run/persistence-mode
[ $mode = off ] || touch $run/persistence-mode
setsid sleep infinity </dev/null >/dev/null 2>&1 &
echo $! >$run/nvidia-persistenced.pid
