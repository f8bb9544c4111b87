# How metal2model's roles call apt: sourced text, put before every script by roles/common/apt.py.
#
#   m2m_set_patience SECONDS    how long to wait for a lock; '' for what the host's apt is set to
#   m2m_run COMMAND...          run a package command: wait for locks, repair what was interrupted, explain a failure
#   m2m_apt_get ARGUMENTS...    the same for apt-get
#   m2m_update [force]          apt-get update, unless it succeeded within the hour and /etc/apt is unchanged since
#   m2m_known A B...            print the first of several packages that a package source has
#   m2m_install ARGUMENTS...    apt-get install; once more with fresh lists when they turn out to be stale
#
# apt's own DPkg::Lock::Timeout does not cover the lock of the package lists ("apt-get update" of apt 2.6 fails at
# once), so this waits by itself, in the same way for every lock. Its output goes to a file and not to the connection:
# when that breaks, dpkg goes on to its end instead of dying in the middle.
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive APT_LISTCHANGES_FRONTEND=none
export NEEDRESTART_SUSPEND=1 UCF_FORCE_CONFFOLD=1
m2m_state=/var/lib/metal2model m2m_failed=/var/log/metal2model/apt-failed.log
m2m_confold='-o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold'
m2m_log=$(mktemp) || exit
trap 'rm -f "$m2m_log"' EXIT
m2m_set_patience() {
  m2m_patience=$1
  [ -n "$m2m_patience" ] || eval "$(apt-config shell m2m_patience DPkg::Lock::Timeout)"
  case $m2m_patience in ''|*[!0-9]*) m2m_patience=120;; esac
}
m2m_say() { printf '%s\n' "$@" >&2; }
m2m_run() {
  m2m_began=$(date +%s) m2m_mended=
  while :; do
    "$@" </dev/null >"$m2m_log" 2>&1 && { cat "$m2m_log"; return 0; }
    m2m_status=$?
    if [ -z "$m2m_mended" ] && grep -q -e 'dpkg was interrupted' -e 'fix-broken' "$m2m_log"; then
      m2m_mended=yes
      m2m_repair && continue
      m2m_status=$?
      if m2m_locked; then m2m_mended=; else
        m2m_say "an earlier package operation was interrupted, and completing it failed" \
          "what to do: run 'dpkg --configure -a' and 'apt-get --fix-broken install' on the host, see to what they say"
      fi
    fi
    m2m_waited=$(($(date +%s) - m2m_began))
    if m2m_locked; then
      if [ "$m2m_waited" -lt "$m2m_patience" ]; then sleep 1; continue; fi
      m2m_lock=$(sed -n 's/.*Could not get lock \([^ ]*[^ .]\).*/\1/p' "$m2m_log" | head -n 1)
      m2m_holder=$(sed -n -e 's/.*held by process \([0-9]*\) (\(.*\)).*/\2 (pid \1)/p' \
        -e 's/.*locked by another process with pid \([0-9]*\).*/pid \1/p' "$m2m_log" | head -n 1)
      m2m_say "base/lock_timeout_seconds: ${m2m_lock:-a lock of apt or dpkg} is held by ${m2m_holder:-another process}" \
        "waited $m2m_waited s for it; this step changed nothing" \
        "what to do: let it finish (unattended-upgrades after a boot takes minutes) or stop it, and run again"
      return 75
    fi
    mkdir -p "${m2m_failed%/*}" && cp "$m2m_log" "$m2m_failed"
    grep -v -e '^Ign:' -e '^Hit:' -e '^Get:' -e '^Err:' -e '^  ' "$m2m_log" | tail -n 20 >&2
    m2m_explain
    m2m_say "all that apt said: $m2m_failed on the host"
    return "$m2m_status"
  done
}
m2m_locked() {
  grep -q -e 'Could not get lock' -e 'Unable to lock' -e 'locked by another process' "$m2m_log"
}
# dpkg alone cannot complete what lacks a dependency; apt then fetches that, so its status is the one that counts.
m2m_repair() {
  echo "an earlier package operation was interrupted: completing it"
  dpkg --force-confdef --force-confold --configure -a </dev/null >"$m2m_log" 2>&1
  apt-get -y -q -o DPkg::Lock::Timeout=0 -o Dpkg::Use-Pty=0 $m2m_confold --fix-broken install \
    </dev/null >>"$m2m_log" 2>&1 || return
  cat "$m2m_log"
}
m2m_explain() {
  m2m_missing=$(sed -n -e 's/.*Unable to locate package //p' \
    -e "s/.*Package '\(.*\)' has no installation candidate.*/\1/p" "$m2m_log" | tr '\n' ' ')
  if [ -n "$m2m_missing" ]; then
    m2m_say "no package source of this host has: $m2m_missing" \
      "what to do: look at 'apt-cache policy' on the host; a component (universe, contrib) or a release may be missing"
  elif grep -q -e 'not valid yet' "$m2m_log"; then
    m2m_say "what to do: the host's clock is behind; set it, then run again"
  elif grep -q -e 'No space left' -e "enough free space" "$m2m_log"; then
    m2m_say "what to do: make room on the host's disk ('apt-get clean' frees /var/cache/apt), then run again"
  elif grep -q -e 'remove is disabled' "$m2m_log"; then
    m2m_say "apt would have to remove packages for this, which nobody asked for; nothing was changed" \
      "what to do: look at 'apt-get --simulate install' on the host and decide there"
  elif grep -q -e 'NO_PUBKEY' -e 'EXPKEYSIG' -e 'is not signed' "$m2m_log"; then
    m2m_say "what to do: a package source is not signed by a key that this host trusts; see the lines above for which"
  elif grep -q 'Failed to fetch' "$m2m_log" && grep -q '^apt\.mirror bundle+' "$m2m_state/mirrors/chosen" 2>/dev/null; then
    m2m_say "mirrors/all: the bundle has not what is named above, or the host does not reach it" \
      "what to do: make it again by deploys/bundle.py on a host of the same release that has these packages, and serve that"
  elif grep -q -e 'Could not resolve' -e 'failure resolving' -e 'Could not connect' -e 'Unable to connect' \
    -e 'timed out' -e 'Failed to fetch' "$m2m_log"; then
    m2m_say "what to do: the host does not reach a package source; mirrors/apt can name others (files/mirrors.yaml)"
  fi
}
m2m_apt_get() {
  m2m_run apt-get -y -q -o DPkg::Lock::Timeout=0 -o Dpkg::Use-Pty=0 $m2m_confold "$@"
}
m2m_update() {
  m2m_stamp=$m2m_state/apt-updated
  if [ "$1" != force ] && [ -e "$m2m_stamp" ] && [ -z "$(find "$m2m_stamp" -mmin +60)" ] &&
    [ -z "$(find /etc/apt -cnewer "$m2m_stamp" | head -n 1)" ] && ls /var/lib/apt/lists/*Release >/dev/null 2>&1
  then return 0; fi
  mkdir -p "$m2m_state" && : >"$m2m_stamp.part" || return
  m2m_apt_get update || { m2m_status=$?; rm -f "$m2m_stamp.part"; return "$m2m_status"; }
  mv -f "$m2m_stamp.part" "$m2m_stamp"
}
m2m_known() {
  for m2m_name in "$@"; do
    if apt-cache policy "$m2m_name" | grep -q '^  Candidate: [^(]'; then echo "$m2m_name"; return; fi
  done
  echo "$1"
}
m2m_install() {
  m2m_apt_get install "$@" && return
  m2m_status=$?
  grep -q -e ' 404 ' -e 'Unable to locate' -e 'no installation candidate' "$m2m_log" || return "$m2m_status"
  m2m_update force && m2m_apt_get install "$@"
}
