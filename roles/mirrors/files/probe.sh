# Reading package sources and asking mirrors, on the host, with nothing but apt: sourced text of roles/mirrors/facts.py.
export LC_ALL=C.UTF-8
umask 022
unpack() { printf %s "${1#=}" | base64 -d; }
show() { if [ -f "$2" ]; then printf '%s =%s %s\n' "$1" "$(base64 -w 0 <"$2")" "$3"; fi; }

# STATE KEPT FILES...: where the host gets its packages from, and what we know of it
show_state() {
  state=$1 kept=$2
  shift 2
  (. /etc/os-release; echo "release $ID ${VERSION_CODENAME:-} $(dpkg --print-architecture)")
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources "$@"; do
    show file "$file" "$file"
  done
  if [ -d "$kept" ]; then
    find "$kept" -type f | while IFS= read -r file; do show kept "$file" "${file#"$kept"}"; done
  fi
  if [ -f "$state/chosen" ]; then sed -n 's/^\([a-z]\)/chosen \1/p' "$state/chosen"; fi
}

# fetch URL FILE [OPTION...]: with apt's transport, which follows its proxy settings
fetch() {
  from=$1 to=$2
  shift 2
  timeout $((2 * probe_timeout)) /usr/lib/apt/apt-helper -o Acquire::Retries=0 -o APT::Sandbox::User=root \
    -o "Acquire::http::Timeout=$probe_timeout" -o "Acquire::https::Timeout=$probe_timeout" "$@" \
    download-file "$from" "$to" >"$to.log" 2>&1
}

# pip does not read apt's proxy, so its index is asked as pip will ask it
fetch_page() {
  fetch "$1" "$2" -o "Acquire::http::Proxy=${http_proxy:-DIRECT}" -o "Acquire::https::Proxy=${https_proxy:-DIRECT}"
}

# reason STATUS LOG: what went wrong, in one line
reason() {
  if [ "$1" -eq 124 ]; then echo "no answer in time"; return; fi
  why=$(sed -n 's/^[EW]: //p' "$2" | grep -v -e 'unsandboxed' -e '^Some index files failed' -e '^Download Failed' |
    head -n 1 | tr -s ' \n' ' ')
  detail=$(sed -n 's/^  //p' "$2" | head -n 1 | tr -s ' \n' ' ')
  case $why in *"${detail% }"*) ;; *) why="$detail($why)";; esac
  echo "${why:-failed with status $1} "
}

# check_chosen FILE TOPIC...: whether what we chose earlier still answers; all at a time
check_chosen() {
  chosen=$1
  shift
  if [ ! -f "$chosen" ]; then return 0; fi
  checks=$(mktemp -d) number=0 || return
  for topic in "$@"; do
    sed -n "s/^$topic\.check //p" "$chosen" >"$checks/$topic.urls"
    while read -r small whole; do
      number=$((number + 1)) answer=$checks/$number
      {
        status=0
        if [ "$topic" = pypi ]; then
          fetch_page "$small" "$answer" || status=$?
        else
          # a mirror without the small file may well have the whole one
          fetch "$small" "$answer" || fetch "$whole" "$answer" || status=$?
        fi
        if [ "$status" -ne 0 ]; then echo "dead $topic $(reason "$status" "$answer.log")"; fi
      } </dev/null &
    done <"$checks/$topic.urls"
  done
  wait
  rm -rf "$checks"
}

# try_apt NAME FILE TEXT...: succeed when apt itself takes the index of every suite from these sources
try_apt() {
  name=$1 work=$(mktemp -d) || return
  shift
  mkdir "$work/parts" "$work/lists" && chmod 755 "$work"
  while [ $# -gt 1 ]; do
    unpack "$2" >"$work/parts/$1"
    shift 2
  done
  # Only the signed index of each suite, no package lists, and none of the hooks that run after a real update.
  {
    apt-config dump | sed -n 's/^\(Acquire::IndexTargets::deb[^: ]*::[^: ]*\) .*/\1::DefaultEnabled "false";/p'
    printf '%s\n' '#clear APT::Update::Pre-Invoke;' '#clear APT::Update::Post-Invoke;' '#clear APT::Update::Post-Invoke-Success;'
    echo "APT::Update::Error-Mode \"any\"; Acquire::Retries \"0\";"
    echo "Acquire::http::Timeout \"$probe_timeout\"; Acquire::https::Timeout \"$probe_timeout\";"
    echo "Dir::Etc::SourceList \"/dev/null\"; Dir::Etc::SourceParts \"$work/parts\"; Dir::State::Lists \"$work/lists\";"
    echo 'Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";'
    # See expiry() of roles/mirrors/operations.py.
    case $name in bundle+*) echo 'Acquire::Check-Valid-Until "false";';; esac
  } >"$work/apt.conf"
  status=0
  timeout $((6 * probe_timeout)) apt-get -c "$work/apt.conf" update </dev/null >"$work/log" 2>&1 || status=$?
  if [ "$status" -ne 0 ]; then
    problem=$(reason "$status" "$work/log")
  elif without=$(grep -L "^Architectures:.*\<$architecture\>" "$work"/lists/*Release) && [ -n "$without" ]; then
    problem="has no packages for $architecture (${without##*/})"
  else
    problem=
  fi
  rm -rf "$work"
  echo "apt $name $problem"
  [ -z "$problem" ]
}

# try_pypi NAME PAGE PATTERN: succeed when the page of the index has something that fits
try_pypi() {
  work=$(mktemp -d) || return
  status=0
  fetch_page "$2" "$work/page" || status=$?
  if [ "$status" -ne 0 ]; then
    problem=$(reason "$status" "$work/page.log")
  elif ! grep -q "$3" "$work/page"; then
    problem="answers, but not as a simple index: $2 has nothing like $3"
  else
    problem=
  fi
  rm -rf "$work"
  echo "pypi $1 $problem"
  [ -z "$problem" ]
}
