# Install release archives of Ollama: TARGET (URL SHA256)...
target=$1
shift
stage=$target.part
mkdir -p "${target%/*}"
rm -rf "$stage"
mkdir "$stage"

while [ $# -gt 0 ]; do
    archive=$target.${1##*/}.part
    fetch "$1" "$2" "$archive" ollama
    case $1 in *.zst) how=--zstd ;; *) how=--gzip ;; esac
    tar --extract $how --file "$archive" --directory "$stage" --no-same-owner
    shift 2
done

[ -x "$stage/bin/ollama" ] || {
    echo "ollama/version: the archive holds no bin/ollama; is it a release archive of Ollama for Linux?" >&2
    exit 1
}
sync -f "$stage"
mv -T "$stage" "$target"
rm -f "$target".*.part
