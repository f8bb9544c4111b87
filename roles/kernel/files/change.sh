# What roles/kernel/operations.py changes; sourced after common/apt.sh.
PATH=$PATH:/usr/sbin:/sbin
state=/var/lib/metal2model/kernel
drop_in=/etc/default/grub.d/90-metal2model.cfg

# entry RELEASE: the path of a kernel's entry in GRUB's menu; the shapes are those of /etc/grub.d/10_linux
entry() {
  ids=$(sed -n "s/.*\$menuentry_id_option '\([^']*\)'.*/\1/p" /boot/grub/grub.cfg)
  item=$(printf '%s\n' "$ids" | grep "^gnulinux-$(echo "$1" | sed 's/[.]/\\&/g')-advanced-" | head -n 1)
  menu=$(printf '%s\n' "$ids" | grep '^gnulinux-advanced-' | head -n 1)
  [ -n "$item" ] || { m2m_say "kernel: GRUB's menu has no entry for $1" "what to do: run update-grub on the host, and see what it says"; return 1; }
  echo "${menu:+$menu>}$item"
}

# GRUB reads file systems without their journals: what a power cut leaves there alone, it does not see.
set_default() { grub-set-default "$1" && sync; }

# save_default RELEASE DROP_IN_TEXT: boot this kernel from now on, whatever is installed; a panic ends in a reboot
save_default() {
  entry "$1" >/dev/null || return
  mkdir -p "$state" "${drop_in%/*}" || return
  if ! printf %s "$2" | cmp -s - "$drop_in"; then
    printf %s "$2" >"$drop_in.part" && mv -f "$drop_in.part" "$drop_in" || return
  fi
  # A menu that is older than the drop-in is one that update-grub was killed over.
  if [ ! /boot/grub/grub.cfg -nt "$drop_in" ]; then m2m_run update-grub || return; fi
  default=$(entry "$1") && set_default "$default"
}

# arm RELEASE PREVIOUS: boot a kernel once
arm() {
  trial=$(entry "$1") || return
  if [ ! -s "/boot/initrd.img-$1" ]; then
    m2m_say "kernel: $1 has no initial ramdisk" "what to do: run update-initramfs -c -k $1 on the host, and see what it says"
    return 1
  fi
  printf '%s\n' "$1" "$2" "$(cat /proc/sys/kernel/random/boot_id)" >"$state/trial.part" &&
    mv -f "$state/trial.part" "$state/trial" && grub-reboot "$trial" && sync
}

# confirm RELEASE HOLD META...: the kernel is proven; with HOLD=yes it stays, else what comes later boots as ever
confirm() {
  default=$(entry "$1") && set_default "$default" || return
  hold=$2
  shift 2
  if [ "$hold" = yes ]; then
    for meta; do
      case $(dpkg-query -W -f '${db:Status-Abbrev}' "$meta" 2>/dev/null) in ii*) m2m_run apt-mark hold "$meta" || return ;; esac
    done
  else
    rm -f "$drop_in" && m2m_run update-grub && sync || return
  fi
  rm -f "$state/trial"
}

# lost RELEASE: the kernel was tried, and is not to be tried again
lost() {
  { cat "$state/failed" 2>/dev/null; echo "$1"; } | sort -u >"$state/failed.part" &&
    mv -f "$state/failed.part" "$state/failed" && rm -f "$state/trial"
}

# keep RELEASE: autoremove must leave the kernel that we fall back to
keep() {
  for owner in $(dpkg-query -S "/boot/vmlinuz-$1" "/lib/modules/$1" 2>/dev/null | sed 's/:.*//' | tr ',' '\n' | sort -u); do
    apt-mark manual "$owner" >/dev/null || return
  done
}

# install_kernel SUITE IMAGE HEADERS: what brings a kernel; headers only where modules are compiled for each
install_kernel() {
  headers=$3
  case $(dpkg-query -W -f '${db:Status-Abbrev}' dkms 2>/dev/null) in ii*) ;; *) headers= ;; esac
  m2m_update || [ $? -ne 75 ] || return 75
  m2m_install --no-install-recommends --allow-change-held-packages ${1:+-t "$1"} "$2" $headers
}

# fetch_mainline URL RELEASE_DIRECTORY ARCHITECTURE FINGERPRINT KEYSERVER: fetch and verify; packages are in $work then
fetch_mainline() {
  work=$(mktemp -d /var/tmp/metal2model-kernel.XXXXXX) || return
  trap 'rm -rf "$work" "$m2m_log"' EXIT
  from=$1/$2/$3 fingerprint=$4
  get() { curl -fsSL --retry 3 --connect-timeout 20 -o "$work/$2" "$1"; }
  get "$5/pks/lookup?op=get&options=mr&search=0x$fingerprint" key.asc && get "$from/CHECKSUMS" CHECKSUMS &&
    get "$from/CHECKSUMS.gpg" CHECKSUMS.gpg || {
    m2m_say "kernel/version: $from could not be read" "what to do: check the version against $1/, and that the host reaches it"
    return 1
  }
  mkdir -m 0700 "$work/gnupg" && gpg --homedir "$work/gnupg" --batch --quiet --import "$work/key.asc" 2>/dev/null
  gpg --homedir "$work/gnupg" --batch --status-fd 1 --verify "$work/CHECKSUMS.gpg" "$work/CHECKSUMS" 2>/dev/null |
    grep -q "^\[GNUPG:\] VALIDSIG .*$fingerprint" || {
    m2m_say "kernel/mainline_key: $from/CHECKSUMS is not signed by $fingerprint; nothing was installed" \
      "what to do: compare the key with https://wiki.ubuntu.com/Kernel/MainlineBuilds; a mirror may serve something else"
    return 1
  }
  # Names hold the time of the build, which only the list knows. Its sha256 lines follow its sha1 lines.
  sed -n '/^# Checksums-Sha256:/,$p' "$work/CHECKSUMS" | grep -E \
    "  linux-(headers-[^/ ]*_all|(headers|image-unsigned|modules)-[^/ ]*-generic_[^/ ]*_$3)\.deb$" >"$work/wanted"
  [ "$(wc -l <"$work/wanted")" -ge 3 ] || {
    m2m_say "kernel/version: $from lists no complete kernel for $3" "what to do: choose another release; this one was not built"
    return 1
  }
  sed 's/^[0-9a-f]*  //' "$work/wanted" | while read -r name; do get "$from/$name" "$name" || exit 1; done &&
    (cd "$work" && sha256sum --quiet -c wanted) || {
    m2m_say "kernel/version: a package of $from is incomplete or not the one that is listed; nothing was installed" \
      "what to do: run again; if it happens again, the server or a proxy changes what it sends"
    return 1
  }
  # Kernels whose scripts hand run-parts two directories stop half installed where it takes one (LP: #2148773).
  for package in "$work"/*.deb; do
    if dpkg-deb -I "$package" preinst postinst 2>/dev/null | grep -qE '/etc/kernel/[^ ]+\.d +/usr/share/kernel/' &&
      ! run-parts --list "$work/gnupg" "$work/gnupg" >/dev/null 2>&1; then
      m2m_say "kernel/version: ${package##*/} needs a run-parts that takes two directories, which this release lacks (LP: #2148773)" \
        "what to do: choose 6.19.10 or older, or source: 'hwe'; nothing was installed"
      return 1
    fi
  done
}
