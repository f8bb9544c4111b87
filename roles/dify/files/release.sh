# Install the compose files of a release of Dify: TARGET URL SHA256 STATE ENVIRONMENT
target=$1 url=$2 sha256=$3 state=$4 environment=$5
archive=$target.tar.gz.part
stage=$target.part
mkdir -p "${target%/*}" "$state/volumes"
rm -rf "$stage" "$stage.source"
fetch "$url" "$sha256" "$archive" dify
mkdir "$stage.source"
tar --extract --gzip --file "$archive" --directory "$stage.source" --strip-components=1 --no-same-owner
[ -f "$stage.source/docker/docker-compose.yaml" ] && [ -f "$stage.source/docker/.env.example" ] || {
    echo "dify/version: the archive holds no docker/docker-compose.yaml and .env.example; is it the source of Dify?" >&2
    exit 1
}
mv -T "$stage.source/docker" "$stage"
rm -rf "$stage.source"
# Data outlive the version; what upstream ships there, such as settings of the sandbox, is laid beside them.
if [ -d "$stage/volumes" ]; then
    cp -a --update=none "$stage/volumes/." "$state/volumes/" 2>/dev/null || cp -an "$stage/volumes/." "$state/volumes/"
    rm -rf "$stage/volumes"
fi
ln -s "$state/volumes" "$stage/volumes"
# Some services read it by this name.
ln -s "$environment" "$stage/.env"
sync -f "$stage"
mv -T "$stage" "$target"
rm -f "$archive"
