# Putting new package sources in place, on the host: sourced text of roles/mirrors/operations.py, after common/apt.sh.
state=/var/lib/metal2model/mirrors
stage=$state/staged
trap 'rm -f "$m2m_log"; rm -rf "$stage"' EXIT
unpack() { printf %s "${1#=}" | base64 -d; }

# begin: a copy of all sources, in which new texts are put before the host sees them
begin() {
  rm -rf "$stage" && mkdir -p "$stage/parts" "$state/original" && : >"$stage/sources.list" || exit
  if [ -e /etc/apt/sources.list ]; then cp -L /etc/apt/sources.list "$stage/sources.list" || exit; fi
  if [ -d /etc/apt/sources.list.d ]; then cp -RL /etc/apt/sources.list.d/. "$stage/parts/" || exit; fi
}
staged() { case $1 in */sources.list) echo "$stage/sources.list";; *) echo "$stage/parts/${1##*/}";; esac; }
# put TEXT PATH: a whole file or none, with the mode it has; a link keeps its place, its target changes
put() {
  target=$(readlink -m "$2") && mkdir -p "${target%/*}" && unpack "$1" >"$target.part" &&
    chmod 0644 "$target.part" && like "$target" "$target.part" && mv -fT "$target.part" "$target" || exit
}
like() { [ ! -e "$1" ] || { chmod --reference="$1" "$2" && chown --reference="$1" "$2"; }; }
with_staged() { "$@" -o "Dir::Etc::SourceList=$stage/sources.list" -o "Dir::Etc::SourceParts=$stage/parts"; }
# chosen_by NAME: the option that a person wrote, and what is there
chosen_by() { case $1 in bundle+*) echo "mirrors/all: ${1#bundle+}";; *) echo "mirrors/apt: $1";; esac; }
# check NAME LISTED URL...: apt must want these indexes and have them; LISTED is what `--print-uris update` says
check() {
  name=$1 listed=$2 lists=$(apt-config shell dir Dir::State::Lists/d)
  shift 2
  eval "$lists"
  for url; do
    found=$(printf '%s\n' "$listed" | sed -n "s|^'$url' \([^ ]*\) .*|\1|p" | head -n 1)
    if [ -z "$found" ]; then
      m2m_say "$(chosen_by "$name"): apt does not use $url" \
        "what to do: see which settings of apt.conf(5) on the host make it read other sources (apt-config dump Dir::Etc)"
      return 1
    elif [ ! -e "$dir$found" ] && [ ! -e "$dir${found%InRelease}Release" ]; then
      m2m_say "$(chosen_by "$name"): apt did not get $url, though its index answered before; nothing was changed" \
        "what to do: see apt's lines above; the mirror may be in the middle of a sync: run again, or put another first"
      return 1
    fi
  done
}
# before PATH: keep a file for put_back
before() {
  mkdir -p "$stage/before" && { [ ! -e "$1" ] || cp -L "$1" "$stage/before/${1##*/}"; } || exit
}
# put_back: the new sources turned out not to be used: leave the host as it was
put_back() {
  for file in "$stage/before"/*; do
    case ${file##*/} in sources.list) home=/etc/apt;; *) home=/etc/apt/sources.list.d;; esac
    target=$(readlink -m "$home/${file##*/}") && cp "$file" "$target.part" && like "$target" "$target.part" &&
      mv -fT "$target.part" "$target"
  done
}
