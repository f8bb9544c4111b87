# What roles/nvidia_gpu/facts.py reads: one line for each thing, its word first. `kernel` is set before
# this text.
export LC_ALL=C.UTF-8
native=$(dpkg --print-architecture)
dpkg-query -W -f '${Architecture} package ${Package} ${Version} ${db:Status-Abbrev}\n' 'nvidia-*' 'libnvidia-*' 'libcuda1' \
  'linux-modules-nvidia-*' 'linux-objects-nvidia-*' 2>/dev/null |
  sed -n -e 's/ *$//' -e "s/^\($native\|all\) //p"
dpkg-query -W -f 'meta ${Package} ${db:Status-Abbrev}\n' 'linux-generic*' 'linux-image-generic*' 'linux-headers-generic*' \
  2>/dev/null | sed -n 's/^\(meta [^ ]*\) ii *$/\1/p'
echo "kernel $kernel"
find "/lib/modules/$kernel" -name 'nvidia.ko*' -o -name 'nvidia-current.ko*' 2>/dev/null | sed -n '1s/^/module /p'
sed -n '/^NVRM/s/^/loaded /p' /proc/driver/nvidia/version 2>/dev/null
true
