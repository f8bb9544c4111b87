# Whether a container runs, and sees the cards: TASK GPUS RENDERERS. "check" prints one line, "as wanted" or why not, and
# changes nothing; "prove" makes the image first, and fails where it is not so. Sourced text of roles/docker/facts.py.
set -u
export LC_ALL=C.UTF-8
task=$1 gpus=$2 renderers=$3
# The host's own shell, with what it needs: nothing is pulled, and a new release of the system is a new image.
image=metal2model/proof:$(getconf GNU_LIBC_VERSION | tr ' ' -)

make_image() (
    set -e
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    mkdir -p "$root/bin" "$root/etc" "$root/tmp" "$root/usr/lib"
    cp -L /bin/sh "$root/bin/sh"
    for program in /bin/sh $(command -v nvidia-smi); do ldd "$program" 2>/dev/null || true; done |
        sed -n 's/^[^/]*\(\/[^ ]*\) (0x[0-9a-f]*)$/\1/p' | sort -u | xargs cp -L --parents -t "$root"
    tar -C "$root" -c . | docker import - "$image" >/dev/null
)

run() {
    docker run --rm --pull=never --network=none --log-driver=none --cap-drop=ALL --security-opt=no-new-privileges \
        "$@" 2>&1
}

# verdict: say what is wrong, or nothing
verdict() {
    said=$(run "$image" sh -c 'echo it runs')
    if [ "$said" != 'it runs' ]; then
        echo "docker: no container runs on this host; docker says: $(echo "$said" | head -n 1 | cut -c 1-400); look at" \
            "journalctl -u docker -u containerd; a host that is a container itself needs nesting (Proxmox: features" \
            "nesting=1,keyctl=1) and cgroups of its own"
        return
    fi
    if [ "$gpus" -gt 0 ]; then
        said=$(run --device nvidia.com/gpu=all "$image" nvidia-smi -L)
        found=$(echo "$said" | grep -c '^GPU [0-9]')
        if [ "$found" -lt "$gpus" ]; then
            echo "docker: a container sees $found NVIDIA cards; required: $gpus; docker says:" \
                "$(echo "$said" | head -n 1 | cut -c 1-400); look at nvidia-ctk cdi list, journalctl -u" \
                "nvidia-cdi-refresh, and docker version, which must be 25 or later"
            return
        fi
    fi
    if [ "$renderers" -gt 0 ]; then
        group=$(stat -c %g /dev/dri/renderD* 2>/dev/null | sort -u | head -n 1)
        # As somebody who is not root: servers in images often are not.
        said=$(run --device /dev/dri --user 65534:65534 --group-add "${group:-0}" "$image" \
            sh -c 'for node in /dev/dri/renderD*; do if [ -r "$node" ] && [ -w "$node" ]; then echo "node $node"; fi; done')
        found=$(echo "$said" | grep -c '^node ')
        if [ "$found" -lt "$renderers" ]; then
            echo "docker: a container of the group ${group:-render} may use $found render nodes of /dev/dri; required:" \
                "$renderers; docker says: $(echo "$said" | head -n 1 | cut -c 1-400); look at ls -l /dev/dri on the host"
        fi
    fi
}

if [ "$task" = prove ]; then
    docker image inspect "$image" >/dev/null 2>&1 || make_image || exit
    # The driver may have come after the toolkit.
    [ "$gpus" -eq 0 ] || systemctl start nvidia-cdi-refresh.service
elif ! docker image inspect "$image" >/dev/null 2>&1; then
    echo "there is no image of the proof yet"
    exit
fi
wrong=$(verdict)
if [ "$task" = check ]; then
    echo "${wrong:-as wanted}"
elif [ -n "$wrong" ]; then
    echo "$wrong" >&2
    exit 1
fi
