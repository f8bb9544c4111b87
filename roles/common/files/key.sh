# Trusting a package source's key, on the host: sourced text of roles/common/keyring.py, after apt.sh.
# key URL PATH OPTION FINGERPRINT...: have the keys that a URL serves in a file, if these and no others are in it
key() {
  url=$1 path=$2 option=$3
  shift 3
  work=$(mktemp -d) || return
  trap 'rm -rf "$work" "$m2m_log"' EXIT
  curl -fsSL --retry 3 --connect-timeout 20 -o "$work/key" "$url" || {
    m2m_say "$option: the key could not be fetched from $url; nothing was changed" \
      "what to do: check that the host reaches it, or give the address of a mirror"
    return 1
  }
  found=$(gpg --homedir "$work" --batch --show-keys --with-colons "$work/key" 2>/dev/null |
    awk -F: '$1 == "pub" || $1 == "sub" { primary = $1 == "pub" } $1 == "fpr" && primary { print $10 }')
  for one in ${found:-none}; do
    known=
    for fingerprint; do if [ "$one" = "$fingerprint" ]; then known=yes; fi; done
    if [ -z "$known" ]; then
      m2m_say "$option: $url serves the key $one; required: $*; whoever has that key could send any package" \
        "what to do: compare with what the publisher says; nothing was changed"
      return 1
    fi
  done
  # Some publish it as apt reads it, without armour, which --dearmor would refuse.
  if grep -q '^-----BEGIN PGP PUBLIC KEY BLOCK-----' "$work/key"; then
    gpg --homedir "$work" --batch --yes --dearmor -o "$work/keyring" "$work/key" 2>"$work/said" || {
      m2m_say "$option: gpg cannot read what $url serves: $(head -n 1 "$work/said"); nothing was changed" \
        "what to do: look at what the address serves, or give the address of a mirror"
      return 1
    }
  else
    mv "$work/key" "$work/keyring"
  fi
  mkdir -p "${path%/*}" && cp "$work/keyring" "$path.part" && chmod 0644 "$path.part" && mv -f "$path.part" "$path" || {
    m2m_say "$option: $path could not be written; what to do: see what was said above, then run again"
    return 1
  }
}
