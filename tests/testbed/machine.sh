#!/bin/bash
# machine.sh boot: what a machine does before its init runs, on a host that pretends to be one (see machines.py).
# Firmware: shows the devices. Boot loader: chooses a kernel as GRUB does, by GRUB's own files. Kernel: says its release,
# takes the cards that it has drivers for. A kernel that panics is reset, and the boot loader is asked again.
set -u
export LC_ALL=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
here=$(dirname "${BASH_SOURCE[0]}")
root= # the tests put another directory here

log() { echo "$*" >>/var/log/bed-machine.log; echo "bed-machine: $*"; }

matches() { # word, then fnmatch patterns
    local word=$1 pattern; shift
    for pattern; do
        # shellcheck disable=SC2053 # a pattern is meant
        [[ $word == $pattern ]] && return 0
    done
    return 1
}

at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; } # a version, and one that is as new

# --- Boot loader -----------------------------------------------------------------------------------------------------

# The default in grub.cfg when there is no one-shot entry: the variable's name or a number, as grub-mkconfig wrote it.
default_of() { sed -n 's/^[[:space:]]*set default="\(.*\)"$/\1/p' "$1" | grep -vx '${next_entry}' | tail -n 1; }

# grub.cfg, entry -> kernel, initrd and command line of what GRUB would boot, on a line each. Entries are named by title,
# id or number, those of a submenu after a ">". What is not found gives way to the first entry of its menu.
chosen() {
    awk -v wanted="$2" -v q="'" '
        function quoted(text, last,    words, count) { # the first word in quotes, or the last
            count = split(text, words, q)
            return count < 3 ? "" : words[last ? count - 1 : 2]
        }
        function add(sub_) {
            item++; parent[item] = menu[depth]; number[item] = counts[menu[depth]]++
            title[item] = quoted($0, 0); id[item] = $0 ~ /menuentry_id_option|--id/ ? quoted($0, 1) : ""; submenu[item] = sub_
        }
        BEGIN { depth = 0; menu[0] = 0; item = 0; entry = 0 }
        /^[ \t]*menuentry / { add(0); entry = item }
        /^[ \t]*submenu / { add(1); menu[++depth] = item }
        entry && /^[ \t]*linux[ \t]/ { kernel[entry] = $2; $1 = $2 = ""; sub(/^ +/, ""); arguments[entry] = $0 }
        entry && /^[ \t]*initrd[ \t]/ { initrd[entry] = $NF }
        /^[ \t]*}$/ { if (entry) entry = 0; else if (depth) depth-- }
        END {
            parts = split(wanted, part, ">"); at = 0
            for (level = 1; level == 1 || submenu[at]; level++) {
                first = found = 0
                for (i = 1; i <= item; i++) if (parent[i] == at) {
                    if (!first) first = i
                    if (!found && level <= parts && (part[level] == title[i] || part[level] == id[i] || part[level] == number[i] "")) found = i
                }
                at = found ? found : first
                if (!at) exit 1
            }
            print kernel[at]; print initrd[at]; print arguments[at]
        }' "$1"
}

# Sets kernel, arguments. Returns when a kernel has come up; a machine that cannot boot stands still.
bootloader() {
    local config=/boot/grub/grub.cfg once entry image initrd words why
    while :; do
        once=$(grub-editenv - list | sed -n 's/^next_entry=//p')
        if [ -n "$once" ]; then
            entry=$once
            grub-editenv - set next_entry=
        else
            entry=$(default_of $config)
            [ "$entry" != '${saved_entry}' ] || entry=$(grub-editenv - list | sed -n 's/^saved_entry=//p')
        fi
        mapfile -t words < <(chosen $config "${entry:-0}")
        image=${words[0]-} initrd=${words[1]-} arguments="BOOT_IMAGE=${words[0]-} ${words[2]-}"
        kernel=${image#/boot/vmlinuz-} why=
        if [ ! -s "$image" ]; then why="the boot loader finds no kernel '$image'"
        elif [ ! -s "${initrd:-/none}" ]; then why="no initrd: '$initrd' is missing or empty"
        elif [ ! -d "/lib/modules/$kernel" ]; then why="no /lib/modules/$kernel"
        elif matches "$kernel" "${PANICS[@]}"; then why="it is one that does"
        fi
        if [ -z "$why" ]; then log "$kernel is up, by ${once:+the one-shot }entry '${entry:-0}'"; return; fi
        log "$kernel panics, by ${once:+the one-shot }entry '${entry:-0}': $why"
        if [ "$WATCHDOG" = 0 ] && ! [[ " $arguments " =~ \ panic=-?[1-9][0-9]*\  ]]; then stand_still "nothing resets it"; fi
        # The same choice would be made for ever.
        [ -n "$once" ] || stand_still "the default entry does not boot"
    done
}

stand_still() { log "the machine stands still: $1"; exec sleep infinity; }

# --- Kernel and drivers ----------------------------------------------------------------------------------------------

# kernel -> version, flavour and signature of NVIDIA's module, on a line each; modprobe prefers updates/.
nvidia_module() {
    local modules=$root/lib/modules/$1 file
    file=$( (find "$modules/updates" -name nvidia.ko; find "$modules" -name nvidia.ko) 2>/dev/null | head -n 1)
    [ -n "$file" ] && sed -n 1,3p "$file"
}

nouveau_is_banned() { # the kernel's command line
    grep -qsE '^[[:space:]]*(blacklist[[:space:]]+nouveau|(alias|install)[[:space:]]+nouveau[[:space:]]+(off|/bin/(false|true)))([[:space:]]|$)' \
        "$root"/etc/modprobe.d/*.conf "$root"/run/modprobe.d/*.conf "$root"/usr/lib/modprobe.d/*.conf ||
        [[ " $1 " =~ [\ ,=]modprobe\.blacklist=([^\ ]*,)?nouveau[,\ ] ]]
}

has_firmware() { # name; as the kernel looks for it, plain or compressed
    local suffix
    for suffix in '' .zst .xz; do [ -s "$root/lib/firmware/$1$suffix" ] && return 0; done
    return 1
}

# kernel, its command line, whether Secure Boot is on (1), PCI id "vendor:device" -> the driver that takes the card
driver_of() {
    local kernel=$1 arguments=$2 secure=$3 id=$4 module
    case $id in
        10de:*)
            mapfile -t module < <(nvidia_module "$kernel")
            if [ -n "${module[*]-}" ] && { [ "$secure" != 1 ] || [ "${module[2]-}" = signed ]; }; then
                case ${module[1]-}:$id in
                    open:10de:1b38 | open:10de:1db[1456]) ;; # no GSP before Turing
                    proprietary:10de:2b85) ;;                # Blackwell is the open modules' alone
                    *) echo nvidia; return ;;
                esac
            fi
            nouveau_is_banned "$arguments" || echo nouveau
            ;;
        8086:e2??) ! { at_least 6.12 "$kernel" && has_firmware xe/bmg_guc_70.bin; } || echo xe ;;
        8086:56??) ! { at_least 6.2 "$kernel" && has_firmware i915/dg2_guc_70.bin; } || echo i915 ;;
    esac
}

node() { # directory, name, group, mode
    mkdir -p "$1" && mknod -m "$4" "$1/$2" c 1 3 && chgrp "$3" "$1/$2"
}

# Binds drivers to devices, as sysfs and /dev/dri show it.
probe() {
    local secure=0 address id class fixed driver module card=0 render=128 date='Tue Sep 23 10:11:16 UTC 2025'
    [ "$(od -An -tu1 -j4 -N1 "$here"/firmware/efi/efivars/SecureBoot-* 2>/dev/null | tr -d ' ')" = 1 ] && secure=1
    rm -rf "$here"/bus/pci/drivers "$here"/proc-driver/* /dev/dri
    find "$here/bus/pci/tree" \( -name driver -type l -o -path '*/drm*' \) -delete
    while read -r address id class fixed; do
        driver=$fixed
        if [[ $class == 03* ]]; then
            matches "$kernel" "${BLIND[@]}" && continue
            [ -n "$driver" ] || driver=$(driver_of "$kernel" "$arguments" $secure "$id")
        fi
        [ -n "$driver" ] || continue
        mkdir -p "$here/bus/pci/drivers/$driver"
        ln -s "../../devices/$address" "$here/bus/pci/drivers/$driver/"
        ln -s "/sys/bus/pci/drivers/$driver" "$here/bus/pci/devices/$address/driver"
        log "$kernel: $driver takes $address $id"
        [[ $class == 03* && $driver != vfio-pci ]] || continue
        mkdir -p "$here/bus/pci/devices/$address/drm/card$card"
        node /dev/dri "card$((card++))" video 660
        case $driver in
            ast | mgag200) ;;
            *)
                mkdir -p "$here/bus/pci/devices/$address/drm/renderD$render"
                node /dev/dri "renderD$((render++))" render 660
                ;;
        esac
        [ "$driver" = nvidia ] || continue
        mapfile -t module < <(nvidia_module "$kernel")
        mkdir -p "$here/proc-driver/nvidia"
        case ${module[1]} in
            open) echo "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  ${module[0]}  Release Build  (dvs-builder@bed)  $date" ;;
            *) echo "NVRM version: NVIDIA UNIX x86_64 Kernel Module  ${module[0]}  $date" ;;
        esac >"$here/proc-driver/nvidia/version"
        echo 'GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04) ' >>"$here/proc-driver/nvidia/version"
    done <"$here/devices"
}

# --- Firmware --------------------------------------------------------------------------------------------------------

show() {
    mount --bind "$here/bus" /sys/bus
    mount --bind "$here/proc-driver" /proc/driver
    mount --bind "$here/osrelease" /proc/sys/kernel/osrelease
    mount --bind "$here/cmdline" /proc/cmdline
    [ ! -d "$here/node" ] || mount --bind "$here/node" /sys/devices/system/node
    if [ -d "$here/firmware" ]; then
        # /sys is read-only, which keeps udev away. Elsewhere it may be writable for a moment.
        unshare --mount sh -ec 'mount -o remount,rw /sys; mkdir -p /sys/firmware; mount -o remount,ro /sys'
        mount --bind "$here/firmware" /sys/firmware
    fi
}

boot() {
    # shellcheck source=/dev/null
    . "$here/settings" # UUID PANICS BLIND WATCHDOG
    # update-grub looks for the root's file system there.
    mkdir -p /dev/disk/by-uuid && ln -sfn ../../null "/dev/disk/by-uuid/$UUID"
    set -e
    show
    [ -s /boot/grub/grub.cfg ] || { mkdir -p /boot/grub && update-grub 2>/dev/null; }
    bootloader
    echo "$kernel" >"$here/osrelease"
    echo "$arguments" >"$here/cmdline"
    probe
    echo "$kernel" >/run/bed-machine
}

if [ "${1-}" = boot ]; then boot; fi
