#!/bin/sh
# nvidia-ctk of the test bed: describes the pretended cards to container engines (CDI).
# https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md
# A container's /proc and /sys are not the host's pretended ones, so that the nvidia-smi that is handed in is a script
# with the answers that the host's gave.
set -eu
here=/run/bed-cdi

generate() {
    cards=$(nvidia-smi -L) || { echo "level=error msg=\"failed to initialize NVML: $cards\"" >&2; exit 1; }
    mkdir -p "$here" "${1%/*}"
    {
        echo '#!/bin/sh'
        echo 'case $1 in -L) ;; *) echo "of the host, only -L" >&2; exit 2 ;; esac'
        echo "$cards" | sed "s/.*/echo '&'/"
    } >"$here/nvidia-smi"
    chmod 0755 "$here/nvidia-smi"
    {
        echo 'cdiVersion: 0.5.0'
        echo 'kind: nvidia.com/gpu'
        echo 'devices:'
        for name in $(echo "$cards" | sed -n 's/^GPU \([0-9]*\):.*/\1/p') all; do
            printf '  - name: "%s"\n    containerEdits:\n      env: [BED_GPU=%s]\n' "$name" "$name"
        done
        echo 'containerEdits:'
        echo '  mounts:'
        echo "    - {hostPath: $here/nvidia-smi, containerPath: /usr/bin/nvidia-smi, options: [ro, nosuid, nodev, bind]}"
    } >"$1.part"
    mv "$1.part" "$1"
}

case "$*" in
    "cdi generate --output="*) generate "${3#--output=}" ;;
    "cdi list") sed -n 's/^  - name: "\(.*\)"$/nvidia.com\/gpu=\1/p' /var/run/cdi/nvidia.yaml ;;
    --version) echo "NVIDIA Container Toolkit CLI version @VERSION@" ;;
    *) echo "nvidia-ctk of the test bed knows no: $*" >&2; exit 2 ;;
esac
