# What roles/kernel/facts.py reads: one line for each thing, its word first. `state` is set before this text.
export LC_ALL=C.UTF-8
echo "running $(cat /proc/sys/kernel/osrelease)"
echo "boot $(cat /proc/sys/kernel/random/boot_id)"
for f in /boot/vmlinuz-*; do if [ -e "$f" ]; then echo "installed ${f#/boot/vmlinuz-}"; fi; done
if [ -f "$state/trial" ]; then echo "trial $(tr '\n' ' ' <"$state/trial")"; fi
if [ -f "$state/failed" ]; then sed 's/^/failed /' "$state/failed"; fi
PATH=$PATH:/usr/sbin:/sbin
if command -v grub-reboot >/dev/null && [ -f /boot/grub/grub.cfg ]; then
  on=$(grub-probe --target=abstraction /boot/grub 2>/dev/null | tr '\n' ' ')
  fs=$(grub-probe --target=fs /boot/grub 2>/dev/null)
  echo "grub $(echo ${on:--} | tr ' ' '+') $fs"
fi
(. /etc/os-release && apt-get indextargets --format '$(REPO_URI) $(SIGNED_BY)' 'Created-By: Packages' \
  "Codename: $VERSION_CODENAME" 'Component: main' 2>/dev/null | sed -n '1{ s/ \$(SIGNED_BY)//; s/^/archive /p; }')
true
