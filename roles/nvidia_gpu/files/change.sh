# What roles/nvidia_gpu/operations.py changes; sourced after common/apt.sh. `others` is set before this text: an
# expression for names of packages that are no part of the driver.
known() { apt-cache policy "$1" | grep -q '^  Candidate: [^(]'; }
whole() { case $(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null) in ?i*) return 0 ;; *) return 1 ;; esac; }
ours() {
  dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' 'nvidia-*' 'libnvidia-*' 'libcuda1' 'linux-modules-nvidia-*' \
    'linux-objects-nvidia-*' 2>/dev/null | sed -n 's/^.[iFHUWt][^ ]* *//p' | grep -Ev "$others"
}

# modules_for SUFFIX KERNEL: packages with signed modules for a kernel and those that will bring the next ones, or nothing
modules_for() {
  known "linux-modules-nvidia-$1-$2" || return 0
  echo "linux-modules-nvidia-$1-$2"
  dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' 'linux-image-*' 2>/dev/null |
    sed -n 's/^.i[^ ]* *linux-image-\([a-z].*\)$/\1/p' | while read -r flavour; do
    if known "linux-modules-nvidia-$1-$flavour"; then echo "linux-modules-nvidia-$1-$flavour"; fi
  done
}

# install_driver SUFFIX BRANCH KERNEL FABRIC SECURE_BOOT FOREIGN...: one transaction; FOREIGN packages are taken off in it
install_driver() {
  suffix=$1 branch=$2 kernel=$3 fabric=$4 secure_boot=$5
  shift 5
  m2m_update || return
  modules=$(modules_for "$suffix" "$kernel")
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
  held=$(apt-mark showhold | grep -Fx -e "$(ours)" | tr '\n' ' ')
  [ -z "$held" ] || apt-mark unhold $held >/dev/null || return
  m2m_apt_get install --no-install-recommends --allow-change-held-packages $modules $programs $gone || {
    status=$?
    [ -z "$held" ] || apt-mark hold $held >/dev/null 2>&1
    if grep -q -e 'Bad return status for module build' -e 'make.log' "$m2m_log"; then
      m2m_say "nvidia_gpu: the driver's module could not be compiled for kernel $kernel" \
        "what to do: read the make.log named above on the host; choose a kernel for which modules are published (kernel/source: 'hwe')"
    fi
    return "$status"
  }
}

# debian_driver KERNEL_META: Debian's packages; its module is always compiled on the host
debian_driver() {
  m2m_update || return
  headers=$(m2m_known "linux-headers-$1" "linux-headers-$(dpkg --print-architecture)")
  m2m_install --no-install-recommends "$headers" nvidia-kernel-dkms nvidia-smi libcuda1 nvidia-persistenced
}

# hold: keep everything of the driver at one version
hold() { ours | xargs -r apt-mark hold >/dev/null; }
