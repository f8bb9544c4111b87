# What roles/intel_gpu/facts.py reads: one line for each thing, its word first. `note` and `lister` are set before this
# text; the arguments are the cards' addresses.
export LC_ALL=C.UTF-8
for address; do
  d=/sys/bus/pci/devices/$address driver=
  if [ -L "$d/driver" ]; then driver=$(readlink "$d/driver"); fi
  echo "card $address ${driver##*/}"
  for node in "$d"/drm/renderD*; do
    if [ -c "/dev/dri/${node##*/}" ]; then echo "render $address"; fi
  done
done
if [ $lister = opencl ]; then
  if command -v clinfo >/dev/null; then
    echo lister
    clinfo --raw 2>/dev/null | sed -n 's/^.*CL_DEVICE_PCI_BUS_INFO_KHR  *PCI-E, *\([0-9a-f:.]*\).*$/device \1/p'
  fi
elif command -v vulkaninfo >/dev/null; then
  echo lister
  vulkaninfo --summary 2>/dev/null | sed -n 's/^.*deviceID *= *0x\([0-9a-f]*\).*$/device \1/p'
fi
journalctl -k -b -o cat --no-pager 2>/dev/null | grep -e 'uC firmware' -e 'firmware load for' -e 'initialize uC' -e 'uC initialization failed' |
  tail -n 40 | sed 's/^/log /'
if [ -e "$note" ]; then echo noted; fi
true
