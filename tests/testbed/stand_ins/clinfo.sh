
# With resizable BAR off the compute runtime takes no card: intel/compute-runtime#872.
usable() {
    [ -e /etc/OpenCL/vendors/intel.icd ] || return 0
    intel_gpus | while IFS='|' read -r address id card bytes name; do
        if [ "$bytes" -gt 1 ] && [ "$bytes" -le 268435456 ]; then
            echo "WARNING: Small BAR detected for device $address" >&2
        else
            [ "$1" = addresses ] && echo "$address" || echo "$name"
        fi
    done
}

names=$(usable names)
case $1 in
    --raw)
        usable addresses | while read -r address; do echo "[INTEL/0] CL_DEVICE_PCI_BUS_INFO_KHR                     PCI-E, $address"; done
        ;;
    -l | --list)
        [ -n "$names" ] || exit 0
        echo "Platform #0: Intel(R) OpenCL Graphics"
        total=$(echo "$names" | wc -l)
        number=0
        echo "$names" | while read -r name; do
            if [ $((number + 1)) -eq "$total" ]; then branch='`--'; else branch='+--'; fi
            echo " $branch Device #$number: $name"
            number=$((number + 1))
        done
        ;;
    *)
        if [ -z "$names" ]; then
            echo "Number of platforms                               0"
            exit 0
        fi
        echo "Number of platforms                               1"
        echo "  Platform Name                                   Intel(R) OpenCL Graphics"
        echo "  Platform Vendor                                 Intel(R) Corporation"
        echo
        echo "  Platform Name                                   Intel(R) OpenCL Graphics"
        echo "Number of devices                                 $(echo "$names" | wc -l)"
        echo "$names" | while read -r name; do
            echo "  Device Name                                     $name"
            echo "  Device Vendor                                   Intel(R) Corporation"
            echo "  Driver Version                                  @VERSION@"
        done
        ;;
esac
