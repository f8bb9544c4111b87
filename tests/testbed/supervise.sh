#!/bin/bash
# supervise.sh NAME ROOT RUN LAYERS CGROUP [nspawn argument...]
# One host of the bed, from power-on to power-off; a reboot inside it starts it again. TERM is the power button.
# It runs in a mount namespace of its own, so its mounts end when it does, however it does.
set -u
name=$1 root=$2 run=$3 layers=$4 cgroup=$5; shift 5

# Who we are, with the time of our start: a number alone may be another process tomorrow.
read -r -a stat </proc/$$/stat
echo "$$ ${stat[21]}" >"$run/pid.part" && mv "$run/pid.part" "$run/pid"

# Made by whoever starts us: what we would start to make them could outlive us, and make them once more.
for hierarchy in $cgroup; do
    echo $$ >"$hierarchy/cgroup.procs" || exit 1
done

cd "$root" || exit 1
mount -t overlay overlay -o "lowerdir=$layers,upperdir=upper,workdir=work" root || exit 1
if [ -e srv.img ]; then mount -o loop srv.img srv || exit 1; fi

stop=0; trap 'stop=1; kill -TERM $child 2>/dev/null' TERM INT
boots=0
while :; do
    echo $((++boots)) >"$run/boots"
    SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --quiet --register=no --keep-unit --directory=root \
        --machine="$name" --boot --resolv-conf=off --timezone=off --link-journal=no --console=pipe "$@" </dev/null &
    child=$!
    # A trapped signal ends the first wait early.
    wait $child; code=$?
    while kill -0 $child 2>/dev/null; do wait $child; code=$?; done
    # 133 asks for another start.
    if [ $stop = 1 ] || [ $code != 133 ]; then exit "$code"; fi
done
