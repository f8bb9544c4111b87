
line='+-----------+--------------------------------------------------------------------------------------+'

uuid_of() {
    number=${1%:*}
    echo "00000000-0000-00${number##*:}-0000-0000${2#0x}8086"
}

table() {
    found=$(intel_gpus)
    if [ -z "$found" ]; then
        echo "No device discovered"
        return
    fi
    echo "$line"
    printf '| %-9s | %-84s |\n' "Device ID" "Device Information"
    echo "$line"
    number=0
    echo "$found" | while IFS='|' read -r address id card bytes name; do
        printf '| %-9s | %-84s |\n' "$number" "Device Name: $name"
        for text in "Vendor Name: Intel(R) Corporation" "SOC UUID: $(uuid_of "$address" "$id")" \
            "PCI BDF Address: $address" "DRM Device: $card" "Function Type: physical"; do
            printf '| %-9s | %-84s |\n' "" "$text"
        done
        echo "$line"
        number=$((number + 1))
    done
}

json() {
    number=0
    echo '{'
    printf '    "device_list": ['
    intel_gpus | while IFS='|' read -r address id card bytes name; do
        [ $number = 0 ] || printf ','
        printf '\n        {\n'
        printf '            "device_function_type": "physical",\n'
        printf '            "device_id": %s,\n' "$number"
        printf '            "device_name": "%s",\n' "$name"
        printf '            "device_type": "GPU",\n'
        printf '            "drm_device": "%s",\n' "$card"
        printf '            "pci_bdf_address": "%s",\n' "$address"
        printf '            "pci_device_id": "%s",\n' "$id"
        printf '            "uuid": "%s",\n' "$(uuid_of "$address" "$id")"
        printf '            "vendor_name": "Intel(R) Corporation"\n'
        printf '        }'
        number=$((number + 1))
    done
    printf '\n    ]\n}\n'
}

case "$*" in
    discovery) table ;;
    "discovery -j" | "discovery --json") json ;;
    -v | --version) printf 'CLI:\n    Version: @VERSION@\n' ;;
    *)
        echo "The test bed's xpu-smi knows no \"$*\"" >&2
        exit 1
        ;;
esac
