# swap GONE -- PACKAGE...: have packages, and take GONE off in the same transaction. Sourced text of
# roles/docker/operations.py, after common/apt.sh.
swap() {
  gone= off=
  while [ "$1" != -- ]; do gone="$gone $1" off="$off $1-"; shift; done
  shift
  m2m_update || [ $? -ne 75 ] || return 75
  wanted=
  for package; do
    case $package in
    *'|'*) package=$(m2m_known $(echo "$package" | tr '|' ' ')) ;;
    esac
    wanted="$wanted $package"
  done
  flags=--no-remove
  if [ -n "$gone" ]; then
    flags=
    # Only these: what else would have to go with them is somebody's.
    if ! LC_ALL=C.UTF-8 apt-get -s -q -y --no-install-recommends --allow-downgrades install $wanted \
      $off >"$m2m_log" 2>&1; then
      grep -e '^E: ' -e ' Depends: ' "$m2m_log" >&2
      m2m_say "docker/source: apt finds no way to install$wanted in place of$gone; nothing was changed" \
        "what to do: look at apt-cache policy of these packages on the host, or choose another docker/source"
      return 1
    fi
    more=$(awk '$1 == "Remv" { print $2 }' "$m2m_log" | grep -vxF "$(printf '%s\n' $gone)" | tr '\n' ' ')
    if [ -n "$more" ]; then
      m2m_say "docker/source: with$gone, apt would remove ${more% }, which nobody asked for; nothing was changed" \
        "what to do: remove them yourself if you do not need them, or choose another docker/source"
      return 1
    fi
  fi
  m2m_install --no-install-recommends --allow-downgrades $flags $wanted $off
}
