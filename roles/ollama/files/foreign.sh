# Print what of another installation of Ollama is on this host: COMMAND, the path of our link.
export LC_ALL=C.UTF-8
shown=$(systemctl show --property FragmentPath,DropInPaths,User,Environment ollama.service)
value() { printf '%s\n' "$shown" | sed -n "s/^$1=//p"; }
unit=$(value FragmentPath)
echo "drop_ins=$(value DropInPaths)"
echo "link=$(readlink -- "$1")"
[ -f "$1" ] && [ ! -L "$1" ] && echo "program=$1"
# The file, not what systemd has loaded of it: an installer has just written it, perhaps.
[ -f "$unit" ] || exit 0
IFS= read -r first <"$unit"
case $first in *metal2model*) exit 0 ;; esac
echo "unit=$unit"
user=$(value User)
models=$(value Environment | xargs -n 1 | sed -n 's/^OLLAMA_MODELS=//p' | tail -n 1)
[ -n "$models" ] || models=$(getent passwd "${user:-root}" | cut -d : -f 6)/.ollama/models
[ -z "$(find "$models/manifests" -type f -print -quit 2>/dev/null)" ] || echo "models=$models"
