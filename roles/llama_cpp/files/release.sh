# Install release archives of llama.cpp: TARGET (URL SHA256)...
target=$1
shift
stage=$target.part
mkdir -p "${target%/*}"
rm -rf "$stage"
mkdir "$stage"

while [ $# -gt 0 ]; do
    archive=$target.${1##*/}.part
    fetch "$1" "$2" "$archive" llama_cpp
    tar --extract --gzip --file "$archive" --directory "$stage" --strip-components=1 --no-same-owner
    shift 2
done

[ -x "$stage/llama-server" ] || {
    echo "llama_cpp/version: the archive holds no llama-server; is it a release archive of llama.cpp for Linux?" >&2
    exit 1
}
sync -f "$stage"
mv -T "$stage" "$target"
rm -f "$target".*.part
