#!/bin/sh
# Stand-in of metal2model's test bed. It knows cards from sysfs, as far as xe or i915 has them; where /etc/bed/intel-fails
# is, it finds none.

intel_name() {
    case $1 in
        0xe20b) echo "Intel(R) Arc(TM) B580 Graphics" ;;
        0xe20c) echo "Intel(R) Arc(TM) B570 Graphics" ;;
        0xe211) echo "Intel(R) Arc(TM) Pro B60 Graphics" ;;
        0xe212) echo "Intel(R) Arc(TM) Pro B50 Graphics" ;;
        0xe222) echo "Intel(R) Arc(TM) Pro B65 Graphics" ;;
        0xe223) echo "Intel(R) Arc(TM) Pro B70 Graphics" ;;
        0x56a0) echo "Intel(R) Arc(TM) A770 Graphics" ;;
        0x56a1) echo "Intel(R) Arc(TM) A750 Graphics" ;;
        0x56a5) echo "Intel(R) Arc(TM) A380 Graphics" ;;
        0x4680) echo "Intel(R) UHD Graphics 770" ;;
        0x56c0 | 0x56c2) echo "Intel(R) Data Center GPU Flex 170" ;;
        0x56c1) echo "Intel(R) Data Center GPU Flex 140" ;;
        *) echo "Intel(R) Graphics [$1]" ;;
    esac
}

# A line ADDRESS|DEVICE ID|DRM CARD|BAR2 BYTES|NAME for each card; 0 bytes where there is no memory of its own behind it.
intel_gpus() {
    [ ! -e /etc/bed/intel-fails ] || return 0
    for device in /sys/bus/pci/devices/*; do
        [ "$(cat "$device/vendor" 2>/dev/null)" = 0x8086 ] || continue
        case $(cat "$device/class") in 0x03*) ;; *) continue ;; esac
        case $(basename "$(readlink "$device/driver")") in xe | i915) ;; *) continue ;; esac
        id=$(cat "$device/device")
        card=
        for found in "$device"/drm/card*; do
            [ ! -e "$found" ] || card=/dev/dri/${found##*/}
        done
        bytes=0 region=
        case $id in 0xe2?? | 0x56??) region=$(sed -n 3p "$device/resource" 2>/dev/null) ;; esac
        if [ -n "$region" ]; then
            bytes=$(echo "$region" | while read -r first last _; do echo $((last - first + 1)); done)
        fi
        echo "${device##*/}|$id|${card:-/dev/dri/card0}|$bytes|$(intel_name "$id")"
    done
}
