#!/bin/sh
# Stand-in of metal2model's test bed. It knows cards from sysfs and the driver from /proc, and fails in nvidia-smi's
# words and exit codes. /etc/bed/nvidia-smi-exit ("15 text") makes it fail so in any case.

fail() {
    code=$1
    shift
    printf '%s\n' "$@"
    exit "$code"
}

# NAME|MEMORY MiB, as nvidia-smi shows it|COMPUTE CAPABILITY|ECC|MIG|POWER LIMIT
card() {
    case $1 in
        1b38) echo "Tesla P40|24576|6.1|yes|no|250.00" ;;
        1db1) echo "Tesla V100-SXM2-16GB|16384|7.0|yes|no|300.00" ;;
        1db4) echo "Tesla V100-PCIE-16GB|16384|7.0|yes|no|250.00" ;;
        1db5) echo "Tesla V100-SXM2-32GB|32768|7.0|yes|no|300.00" ;;
        1db6) echo "Tesla V100-PCIE-32GB|32768|7.0|yes|no|250.00" ;;
        1eb8) echo "Tesla T4|15360|7.5|yes|no|70.00" ;;
        20b0) echo "NVIDIA A100-SXM4-40GB|40960|8.0|yes|yes|400.00" ;;
        20b1 | 20f1) echo "NVIDIA A100-PCIE-40GB|40960|8.0|yes|yes|250.00" ;;
        20b2) echo "NVIDIA A100-SXM4-80GB|81920|8.0|yes|yes|400.00" ;;
        20b5) echo "NVIDIA A100 80GB PCIe|81920|8.0|yes|yes|300.00" ;;
        20f3) echo "NVIDIA A800-SXM4-80GB|81920|8.0|yes|yes|400.00" ;;
        2204) echo "NVIDIA GeForce RTX 3090|24576|8.6|no|no|350.00" ;;
        2684) echo "NVIDIA GeForce RTX 4090|24564|8.9|no|no|450.00" ;;
        2685) echo "NVIDIA GeForce RTX 4090 D|24564|8.9|no|no|425.00" ;;
        26b9) echo "NVIDIA L40S|46068|8.9|yes|no|350.00" ;;
        2324) echo "NVIDIA H800|81559|9.0|yes|yes|700.00" ;;
        2329) echo "NVIDIA H20|97871|9.0|yes|yes|500.00" ;;
        232c) echo "NVIDIA H20-3e|143771|9.0|yes|yes|500.00" ;;
        2330) echo "NVIDIA H100 80GB HBM3|81559|9.0|yes|yes|700.00" ;;
        2331) echo "NVIDIA H100 PCIe|81559|9.0|yes|yes|350.00" ;;
        2335) echo "NVIDIA H200|143771|9.0|yes|yes|700.00" ;;
        2b85) echo "NVIDIA GeForce RTX 5090|32607|12.0|no|no|575.00" ;;
        2b87) echo "NVIDIA GeForce RTX 5090 D|32607|12.0|no|no|575.00" ;;
        2b8c) echo "NVIDIA GeForce RTX 5090 D v2|24463|12.0|no|no|575.00" ;;
        *) echo "NVIDIA Graphics Device|8192|8.6|no|no|150.00" ;;
    esac
}

read_from() {
    value=$2
    [ ! -r "$1" ] || read -r value <"$1" || true
}

# One line for each card that the driver has: INDEX|BUS|ADDRESS|GENERATION|WIDTH|card()
cards() {
    index=0
    for device in /sys/bus/pci/devices/*; do
        read_from "$device/vendor" ""
        [ "$value" = 0x10de ] || continue
        read_from "$device/class" ""
        case $value in 0x03*) ;; *) continue ;; esac
        [ "$(basename "$(readlink "$device/driver")")" = nvidia ] || continue
        read_from "$device/current_link_speed" "16.0 GT/s PCIe"
        case $value in
            2.5*) generation=1 ;;
            5*) generation=2 ;;
            8*) generation=3 ;;
            32*) generation=5 ;;
            64*) generation=6 ;;
            *) generation=4 ;;
        esac
        read_from "$device/current_link_width" 16
        width=$value
        read_from "$device/device" ""
        address=${device##*/}
        echo "$index|0000$(echo "$address" | tr a-f A-F)|$address|$generation|$width|$(card "${value#0x}")"
        index=$((index + 1))
    done
}

uuid_of() {
    sum=$(echo "$(cat /etc/machine-id 2>/dev/null) $1" | sha256sum)
    echo "$sum" | sed -E 's/^(.{8})(.{4})(.{4})(.{4})(.{12}).*/GPU-\1-\2-\3-\4-\5/'
}

persistence() {
    if [ -e /run/nvidia-persistenced/persistence-mode ] || [ -e /run/nvidia-smi-persistence ]; then
        echo Enabled
    else
        echo Disabled
    fi
}

unit_of() {
    case $1 in
        memory.*) echo MiB ;;
        power.*) echo W ;;
        utilization.*) echo % ;;
    esac
}

value_of() {
    case $1 in
        index) echo "$index" ;;
        uuid | gpu_uuid) uuid_of "$address" ;;
        name | gpu_name) echo "$name" ;;
        pci.bus_id | gpu_bus_id) echo "$bus" ;;
        compute_cap) echo "$capability" ;;
        driver_version) echo "$loaded" ;;
        memory.total) echo "$memory" ;;
        memory.used) echo 1 ;;
        memory.free) echo $((memory - 1)) ;;
        persistence_mode) persistence ;;
        mig.mode.current) if [ "$mig" = yes ]; then echo Disabled; else echo "[N/A]"; fi ;;
        ecc.errors.uncorrected.volatile.total) if [ "$ecc" = yes ]; then echo 0; else echo "[N/A]"; fi ;;
        pcie.link.gen.current) echo "$generation" ;;
        pcie.link.width.current) echo "$width" ;;
        temperature.gpu) echo 31 ;;
        power.draw) echo 25.50 ;;
        power.limit) echo "$limit" ;;
        utilization.gpu) echo 0 ;;
        *) return 1 ;;
    esac
}

query() {
    wanted=$(echo "$1" | tr , ' ')
    case ",$2," in *,csv,*) ;; *) fail 2 "\"--format=\" switch is missing. Please run 'nvidia-smi -h' for help." ;; esac
    with_header=yes with_units=yes
    case ",$2," in *,noheader,*) with_header=no ;; esac
    case ",$2," in *,nounits,*) with_units=no ;; esac
    index=0 address=x bus=x name=x memory=1 capability=x ecc=x mig=x limit=x generation=x width=x
    line=
    for field in $wanted; do
        value_of "$field" >/dev/null || fail 2 "Field \"$field\" is not a valid field to query." ""
        unit=$(unit_of "$field")
        line="$line${line:+, }$field"
        [ $with_units = no ] || line="$line${unit:+ [$unit]}"
    done
    [ $with_header = no ] || echo "$line"
    cards | while IFS='|' read -r index bus address generation width name memory capability ecc mig limit; do
        line=
        for field in $wanted; do
            unit=$(unit_of "$field")
            line="$line${line:+, }$(value_of "$field")"
            [ $with_units = no ] || line="$line${unit:+ $unit}"
        done
        echo "$line"
    done
}

if [ -s /etc/bed/nvidia-smi-exit ]; then
    read -r code text </etc/bed/nvidia-smi-exit
    fail "$code" "$text"
fi
libraries=/usr/lib/x86_64-linux-gnu
# The library, not the program, has to fit the driver: the two are in different packages.
library=$(readlink $libraries/libnvidia-ml.so.1) || library=
[ -n "$library" ] || fail 12 \
    "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA Display Driver is properly installed and present in your system." \
    "Please also try adding directory that contains libnvidia-ml.so to your system PATH."
[ -r /proc/driver/nvidia/version ] || fail 9 \
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is installed and running." ""
loaded=$(sed -nE '/^NVRM/{s/.* ([0-9]+\.[0-9]+(\.[0-9]+)?) .*/\1/p;q}' /proc/driver/nvidia/version)
version=${library#libnvidia-ml.so.}
[ "$version" = "$loaded" ] || fail 18 \
    "Failed to initialize NVML: Driver/library version mismatch" "NVML library version: $(echo "$version" | cut -d. -f1,2)"
[ -n "$(cards)" ] || fail 6 "No devices were found"

queried='' format='' mode=table persist=
while [ $# -gt 0 ]; do
    case $1 in
        --query-gpu=*) mode=query queried=${1#*=} ;;
        --format=*) format=${1#*=} ;;
        -L | --list-gpus) mode=list ;;
        -pm | --persistence-mode) mode=persistence persist=$2 && shift ;;
        --persistence-mode=*) mode=persistence persist=${1#*=} ;;
        *) fail 2 "Invalid combination of input arguments. Please run 'nvidia-smi -h' for help." "" ;;
    esac
    shift
done
case $mode in
    query) query "$queried" "$format" ;;
    list)
        cards | while IFS='|' read -r index bus address generation width name rest; do
            echo "GPU $index: $name (UUID: $(uuid_of "$address"))"
        done
        ;;
    persistence)
        case $persist in
            1 | ENABLED) touch /run/nvidia-smi-persistence && said=Enabled ;;
            0 | DISABLED) rm -f /run/nvidia-smi-persistence && said=Disabled ;;
            *) fail 2 "Invalid combination of input arguments. Please run 'nvidia-smi -h' for help." "" ;;
        esac
        cards | while IFS='|' read -r index bus rest; do
            echo "$said persistence mode for GPU $bus."
        done
        echo "All done."
        ;;
    table)
        major=${loaded%%.*}
        if [ "$major" -ge 580 ]; then cuda=13.0; else cuda=12.8; fi
        echo "+-----------------------------------------------------------------------------------------+"
        printf '| NVIDIA-SMI %-22s Driver Version: %-14s CUDA Version: %-8s |\n' "$version" "$loaded" "$cuda"
        echo "+-----------------------------------------+------------------------+----------------------+"
        cards | while IFS='|' read -r index bus address generation width name memory rest; do
            if [ "$(persistence)" = Enabled ]; then short=On; else short=Off; fi
            printf '| %3s  %-29s%4s  | %18s %3s | %20s |\n' "$index" "$name" "$short" "$bus" Off ""
            printf '| %39s | %7sMiB / %6sMiB | %20s |\n' "" 1 "$memory" "0%      Default"
        done
        echo "+-----------------------------------------+------------------------+----------------------+"
        ;;
esac
