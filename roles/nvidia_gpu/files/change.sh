# What roles/nvidia_gpu/operations.py changes; sourced after common/apt.sh. `others` is set before this text: an
# expression for names of packages that are no part of the driver.
known() { apt-cache policy "$1" | grep -q '^  Candidate: [^(]'; }
whole() { case $(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null) in ?i*) return 0 ;; *) return 1 ;; esac; }
ours() {
  dpkg-query -W -f '${db:Status-Abbrev} ${binary:Package}\n' 'nvidia-*' 'libnvidia-*' 'libcuda1' 'linux-modules-nvidia-*' \
    'linux-objects-nvidia-*' 2>/dev/null | sed -n "s/^.[iFHUWt][^ ]* *//p" | sed "s/:$(dpkg --print-architecture)$//" |
    grep -Ev "$others"
}

# modules_for SUFFIX KERNEL HOLD: packages with signed modules for a kernel, or nothing; those that bring the next
# kernels' too, unless all is to be held: they would bring a kernel as well, that nobody has tried
modules_for() {
  known "linux-modules-nvidia-$1-$2" || return 0
  echo "linux-modules-nvidia-$1-$2"
  [ "$3" != yes ] || return 0
  dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' 'linux-image-*' 2>/dev/null |
    sed -n 's/^.i[^ ]* *linux-image-\([a-z].*\)$/\1/p' | while read -r flavour; do
    if known "linux-modules-nvidia-$1-$flavour"; then echo "linux-modules-nvidia-$1-$flavour"; fi
  done
}

# loadable KERNEL: a module came for this kernel; what compiles it skips a kernel without headers, and says no word
loadable() {
  [ -z "$(find "/lib/modules/$1" -name 'nvidia.ko*' -o -name 'nvidia-current.ko*' 2>/dev/null)" ] || return 0
  m2m_say "nvidia_gpu: the driver is installed, but no module came for kernel $1" \
    "what to do: the archive has moved on from this kernel; upgrade the host (apt full-upgrade), reboot, and run again"
  return 1
}

# plan_driver SUFFIX BRANCH KERNEL FABRIC SECURE_BOOT HOLD FOREIGN...: find the packages, and see that apt can install
# them and take FOREIGN off; changes nothing
plan_driver() {
  suffix=$1 branch=$2 kernel=$3 fabric=$4 secure_boot=$5 hold=$6
  shift 6
  m2m_update || [ $? -ne 75 ] || return 75
  modules=$(modules_for "$suffix" "$kernel" "$hold")
  programs="nvidia-headless-no-dkms-$suffix nvidia-utils-$branch"
  if [ -z "$modules" ]; then
    if [ "$secure_boot" = yes ]; then
      m2m_say "nvidia_gpu: Secure Boot is on, and no signed modules of $suffix are published for kernel $kernel" \
        "compiled ones (DKMS) would not be loaded; nothing was changed" \
        "what to do: use a kernel of the distribution (kernel/source: 'hwe'), or switch Secure Boot off"
      return 1
    fi
    if ! known "linux-headers-$kernel"; then
      m2m_say "nvidia_gpu: neither modules of $suffix nor headers are published for kernel $kernel; nothing was changed" \
        "what to do: use a kernel of the distribution (kernel/source: 'hwe'), or install its headers yourself"
      return 1
    fi
    modules="linux-headers-$kernel nvidia-dkms-$suffix" programs="nvidia-headless-$suffix nvidia-utils-$branch"
  fi
  if [ "$fabric" = yes ]; then
    # It must be of the driver's very version, or CUDA does not start on such machines.
    version=$(apt-cache policy "nvidia-utils-$branch" | sed -n 's/^  Candidate: \([0-9.]*\).*/\1/p')
    manager=nvidia-fabricmanager-${branch%%-*}
    exact=$(apt-cache madison "$manager" | awk '{print $3}' | grep "^$version-" | head -n 1)
    if [ -z "$exact" ]; then
      m2m_say "nvidia_gpu: $manager is not published in version $version, which the driver has; nothing was changed" \
        "what to do: run again later, the archive is between two versions; or choose another nvidia_gpu/branch"
      return 1
    fi
    programs="$programs $manager=$exact"
  fi
  gone=
  for package; do if whole "$package" || dpkg-query -W "$package" >/dev/null 2>&1; then gone="$gone $package-"; fi; done
  if ! apt-get -s -q --no-install-recommends --allow-change-held-packages -y install $modules $programs $gone \
    >"$m2m_log" 2>&1; then
    sed -n '/^E: /p; / Depends: /p' "$m2m_log" >&2
    m2m_say "nvidia_gpu: apt finds no way to install $suffix for kernel $kernel, see above; nothing was changed" \
      "what to do: the archive may have moved on from this kernel; upgrade the host (apt full-upgrade), reboot, run again"
    return 1
  fi
}

# install_driver SUFFIX...: as planned, in one transaction. `wish` is set before: what asks for the reboot
install_driver() {
  plan_driver "$@" && eval "$wish" || return
  held=$(apt-mark showhold | grep -Fx -e "$(ours)" | tr '\n' ' ')
  [ -z "$held" ] || m2m_run apt-mark unhold $held >/dev/null || return
  m2m_apt_get install --no-install-recommends --allow-change-held-packages $modules $programs $gone || {
    status=$?
    [ -z "$held" ] || apt-mark hold $held >/dev/null 2>&1
    if grep -q -e 'Bad return status for module build' -e 'make.log' "$m2m_log"; then
      m2m_say "nvidia_gpu: the driver's module could not be compiled for kernel $kernel" \
        "what to do: read the make.log named above on the host; choose a kernel for which modules are published (kernel/source: 'hwe')"
    fi
    return "$status"
  }
  # nouveau must not take the card from within the ramdisk.
  if command -v update-initramfs >/dev/null; then m2m_run update-initramfs -u -k "$kernel" || return; fi
  loadable "$kernel"
}

# debian_driver KERNEL_META: Debian's packages; its module is always compiled on the host
debian_driver() {
  m2m_update || [ $? -ne 75 ] || return 75
  eval "$wish" || return
  headers=$(m2m_known "linux-headers-$1" "linux-headers-$(dpkg --print-architecture)")
  m2m_install --no-install-recommends --allow-change-held-packages "$headers" nvidia-kernel-dkms nvidia-smi libcuda1 \
    nvidia-persistenced && loadable "$1"
}

# hold META...: keep everything of the driver at one version, and the kernel that its modules are made for
hold() {
  set -- "$@" $(ours)
  [ $# -eq 0 ] || m2m_run apt-mark hold "$@" >/dev/null
}
