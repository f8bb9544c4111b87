# Have images: RECORD BUNDLE REFERENCE... Sourced text of roles/common/images.py.
# BUNDLE is the base of the bundle that they are loaded from, '' where they are pulled.
set -u
# Root's logins, whoever called sudo.
DOCKER_CONFIG=~root/.docker
export LC_ALL=C.UTF-8 DOCKER_CONFIG
record=$1 bundle=$2
shift 2
command -v docker >/dev/null || { echo "docker: there is no docker on this host; declare the role: docker: {}" >&2; exit 1; }
work=$(mktemp -d) || exit
trap 'rm -rf "$work"' EXIT
said=$work/docker

# docker says in words alone what became of a pull; they are dockerd's, containerd's and the registry's.
explain() {
    case $(cat "$said") in
    *'Cannot connect to the Docker daemon'*)
        echo "docker: dockerd does not run on the host, and images are its affair; look at journalctl -u docker" ;;
    *'no space left on device'*)
        echo "docker/data_root: no space is left below $(docker info --format '{{.DockerRootDir}}') or" \
            "/var/lib/containerd, and model servers' images take 10 to 30 GB; make room, or name a larger disk" ;;
    *toomanyrequests*)
        echo "docker/registries/$registry/login_file: $registry lets nobody pull this much without a login; name a" \
            "file with one there, or a mirror in docker/mirrors" ;;
    *'server gave HTTP response to HTTPS client'*)
        echo "docker/registries/$registry/insecure: it speaks plain HTTP, and required is TLS; write True there if you" \
            "trust the network in between" ;;
    *x509:*)
        echo "docker/registries/$registry/ca_file: its certificate is signed by nobody whom the host trusts; name the file" \
            "with your authority's certificate there" ;;
    *unauthorized* | *'no basic auth'* | *'authentication required'* | *denied* | *'403 Forbidden'*)
        echo "docker/registries/$registry/login_file: $registry has no such image, or shows it to nobody without a login;" \
            "check the name, then the login" ;;
    *'manifest unknown'* | *'not found'* | *'no matching manifest'*)
        echo "$registry has no such image for a processor of this kind; compare name and version with its list of" \
            "tags, and a digest with what it shows beside them" ;;
    *)
        echo "$registry could not be used from the host; check the network in between, or write the image with the name" \
            "of a registry that the host reaches; for Docker Hub, docker/mirrors can name a mirror" ;;
    esac >&2
}

remember() {
    mkdir -p "${record%/*}" &&
        { cat "$record" 2>/dev/null; echo "$1"; } >"$record.part" && mv -f "$record.part" "$record"
}

# load REFERENCE PATH: from the bundle, which says what Docker called the image where it was saved
load() {
    url=$bundle/$2
    # What it is to be stands in the record first: after a kill, the next run compares with that.
    wanted=$(curl --fail --location --silent --show-error --retry 3 "$url.id" 2>"$said") && remember "$1 $wanted" &&
        { curl --fail --location --silent --show-error "$url" 2>"$work/curl" || echo cut; } |
        docker load --quiet >"$said" 2>&1
    found=$(docker image inspect --format '{{.ID}}' "$1" 2>/dev/null)
    if [ -z "$wanted" ] || [ -z "$found" ]; then
        cat "$work"/* >&2
        echo "mirrors/all: $1 could not be loaded from $url, and what was said stands above; make the bundle again by" \
            "deploys/bundle.py on a host that has this image, or see to docker and to its disk" >&2
        exit 1
    elif [ "$found" != "$wanted" ]; then
        docker image rm --force "$1" >/dev/null
        echo "mirrors/all: $1 came from $url as $found; required is $wanted, as which it was saved; it was removed: it was" \
            "changed, or saved by a Docker that keeps images in another way; compare docker info, make the bundle again" >&2
        exit 1
    fi
}

for reference; do
    name=${reference%@*} registry=docker.io
    # The first part is a host's name only where it looks like one:
    # https://github.com/distribution/reference/blob/main/normalize.go
    case $name in */*) case ${name%%/*} in *.* | *:* | localhost) registry=${name%%/*} ;; esac ;; esac
    if [ -n "$bundle" ] && [ "$reference" != "$name" ]; then
        echo "mirrors/all: $reference names a digest, which only registries know; required is a version, name:tag" >&2
        exit 1
    elif [ -n "$bundle" ]; then
        echo "loading $reference"
        load "$reference" "$registry/${name#"$registry/"}.tar"
        continue
    fi
    # A version means what it meant the first time, even if the image was removed since.
    from=$(awk -v wanted="$reference" '$1 == wanted && $2 ~ /@/ { found = $2 } END { print found }' "$record" 2>/dev/null)
    from=${from:-$reference}
    echo "pulling $from"
    docker pull "$from" 2>&1 | tee "$said"
    if ! docker image inspect "$from" >/dev/null 2>&1; then
        echo "$reference could not be pulled, and what was said stands above; layers that came whole are kept" >&2
        [ "$from" = "$reference" ] ||
            echo "on this host it means $from; for what it means now, delete its line in $record" >&2
        explain
        exit 1
    fi
    [ "$from" = "$reference" ] || docker tag "$from" "$reference" || exit
    digest=$(sed -n 's/^Digest: //p' "$said")
    if [ "$reference" = "$name" ] && [ "$from" = "$reference" ] && [ -n "$digest" ]; then
        remember "$reference ${reference%:*}@$digest" || exit
    fi
done
