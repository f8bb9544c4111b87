# What roles/kernel/facts.py reads: one line for each thing, its word first. `state` and `boot_loader`
# are set before this text.
export LC_ALL=C.UTF-8
echo "running $(cat /proc/sys/kernel/osrelease)"
echo "boot $(cat /proc/sys/kernel/random/boot_id)"
# One without a ramdisk is not whole: its package was unpacked and no more.
for f in /boot/initrd.img-*; do
  v=${f#/boot/initrd.img-}
  if [ -s "$f" ] && [ -e "/boot/vmlinuz-$v" ]; then echo "installed $v"; fi
done
if [ -f "$state/trial" ]; then echo "trial $(tr '\n' ' ' <"$state/trial")"; fi
if [ -f "$state/failed" ]; then sed 's/^/failed /' "$state/failed"; fi
PATH=$PATH:/usr/sbin:/sbin
if [ $boot_loader = yes ] && command -v grub-reboot >/dev/null && [ -f /boot/grub/grub.cfg ]; then
  on=$(grub-probe --target=abstraction /boot/grub 2>/dev/null | tr '\n' ' ')
  fs=$(grub-probe --target=fs /boot/grub 2>/dev/null)
  echo "grub $(echo ${on:--} | tr ' ' '+') $fs"
fi
true
