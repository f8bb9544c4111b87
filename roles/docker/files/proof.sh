# Whether a container runs, and sees the cards: TASK GPUS RENDERERS. "check" prints one line, "as wanted" or why not, and
# changes nothing; "prove" makes the image first, and fails where it is not so. Sourced text of roles/docker/facts.py.
set -u
export LC_ALL=C.UTF-8
task=$1 gpus=$2 renderers=$3
# The libraries of the host's own shell, and of NVIDIA's program where there are cards of theirs.
needed=$(for program in /bin/sh $(command -v nvidia-smi); do ldd "$program" 2>/dev/null; done |
    sed -n 's/^[^/]*\(\/[^ ]*\) (0x[0-9a-f]*)$/\1/p' | sort -u)
# Nothing is pulled, and another system or another card, which needs other libraries, is another image.
image=metal2model/proof:$(sha256sum /bin/sh $needed | sha256sum | cut -c 1-16)

make_image() (
    root=$(mktemp -d) || exit
    trap 'rm -rf "$root"' EXIT
    # Step by step: a pipe into docker would give the name to half an image, too.
    mkdir -p "$root/files/bin" "$root/files/etc" "$root/files/tmp" "$root/files/usr/lib" &&
        cp -L /bin/sh "$root/files/bin/sh" &&
        echo "$needed" | xargs -r cp -L --parents -t "$root/files" &&
        tar -C "$root/files" -cf "$root/image.tar" . &&
        docker import "$root/image.tar" "$image" >/dev/null
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
    # Made anew the next time, should it be to blame.
    docker image rm --force "$image" >/dev/null 2>&1
    exit 1
else
    docker image ls --format '{{.Repository}}:{{.Tag}}' metal2model/proof | grep -vxF "$image" |
        xargs -r docker image rm >/dev/null 2>&1
    exit 0
fi
