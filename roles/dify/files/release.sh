# Install the compose files of a release of Dify: TARGET URL SHA256 STATE ENVIRONMENT NAME...
# NAME...: variables that get a value of this host's own.
target=$1 url=$2 sha256=$3 state=$4 environment=$5
shift 5
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
compose=$stage/docker-compose.yaml example=$stage/.env.example

# Secrets that upstream publishes, and everybody has who did not change them. Those of stores that are started only where
# VECTOR_STORE or DB_TYPE names them are reached from Dify's own containers alone; secrets can give them others.
published='difyai[0-9]+|for-dev-only|dify-sandbox|sk-9f73s3|WVF5YThaHlkYwhGU|lYkiYYT6owG|QaHbTe77CtuX|MDEyMzQ1Njc4OWFi'
stores='PGVECTO|QDRANT|MILVUS|RELYT|MYSCALE|OCEANBASE|SEEKDB|OPENGAUSS|VASTBASE|TIDB|ORACLE|CHROMA|OPENSEARCH|ELASTIC'
stores="$stores|COUCHBASE|TABLESTORE|LINDORM|ALIBABACLOUD|CLICKZETTA|MATRIXONE|IRIS|HOLOGRES|BAIDU|MYSQL"
known=$(
    {
        sed -nE "s/^([A-Z0-9_]+)=.*($published).*/\1/p" "$example"
        # The default of a variable counts where the example gives it no value, and a text without a variable always.
        grep -oE "\\$\{[A-Z0-9_]+:?-[^{}]*($published)" "$compose" | sed -E 's/^..([A-Z0-9_]+).*/\1/' | while read -r name; do
            grep -qE "^$name=." "$example" || echo "$name"
        done
        sed -E 's/^ *#.*//; :again; s/\$\{[^{}]*\}//; t again' "$compose" |
            sed -nE "s/^[ -]*([A-Za-z0-9_]+)[:=] *[^ ]*($published).*/\1/p"
    } | sort -u | grep -vE "^($stores)" | grep -vxF "$(printf '%s\n' "$@")" | tr '\n' ' '
)
[ -z "$known" ] || {
    echo "dify/version: upstream's files give ${known% } a secret that everybody knows, and this role has no other for it;" >&2
    echo "write the key into a file on the host that root alone reads, and dify/secrets: {NAME: THE FILE}" >&2
    exit 1
}

# Upstream opens some services, databases with known passwords among them, to every address. Here that is nginx's alone.
awk '
    /^[^ #]/ { inside = /^services:/ }
    /^[^#]*[ {,]ports:/ { ports++ }
    inside && /^  [^ #]/ { service = $1 }
    inside && /^    ports:/ { seen++; if (service != "nginx:") closed = closed "  " service "\n    ports: !reset []\n" }
    END {
        if (ports != seen) exit 1
        printf "services:%s\n%s", (closed == "" ? " {}" : ""), closed
    }
' "$compose" >"$stage/metal2model-ports.yaml" || {
    echo "dify/version: docker-compose.yaml is laid out in another way than this role knows, and may open ports to" >&2
    echo "everybody; choose another version" >&2
    exit 1
}

# Data outlive the version; what upstream ships there, such as settings of the sandbox, is laid beside them: each file
# under its name when it is whole.
if [ -d "$stage/volumes" ]; then
    (
        cd "$stage/volumes"
        find . -type d -exec mkdir -p "$state/volumes/{}" \;
        find . ! -type d | while IFS= read -r file; do
            place=$state/volumes/$file
            if [ ! -e "$place" ] && [ ! -L "$place" ]; then
                cp -a "$file" "$place.part"
                sync -- "$place.part"
                mv -T "$place.part" "$place"
            fi
        done
    )
    sync -f "$state/volumes"
    rm -rf "$stage/volumes"
fi
ln -s "$state/volumes" "$stage/volumes"
# Some services read it by this name.
ln -s "$environment" "$stage/.env"
sync -f "$stage"
mv -T "$stage" "$target"
rm -f "$archive"
