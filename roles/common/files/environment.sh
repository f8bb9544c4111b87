# Make a Python environment of pinned packages: TARGET REQUIREMENTS UV-REQUIREMENTS ROLE PYTHON MODULE
# uv resumes nothing, but keeps each package that it has whole, so an interrupted run goes on with the others.
target=$1 requirements=$2 uv_requirements=$3 role=$4 python=$5 module=$6
stage=$target.part cache=$target.cache.part
uv_home=/opt/metal2model/uv/$(sed -n 's/^uv==\([^ ]*\).*/\1/p' "$uv_requirements")
mkdir -p "${target%/*}" "${uv_home%/*}"
# What other versions left that never became whole, which may be 10 GB each.
find "${target%/*}" -mindepth 1 -maxdepth 1 -name '*.part' ! -path "$stage" ! -path "$cache" -exec rm -rf {} +
export UV_CACHE_DIR="$cache" UV_PYTHON_INSTALL_DIR=/opt/metal2model/uv/python UV_SYSTEM_CERTS=1 UV_NO_PROGRESS=1
export UV_HTTP_TIMEOUT=120 UV_LINK_MODE=hardlink

explain() {
    echo "$role: $1; what was said stands above. The packages are pinned in $requirements on the host." >&2
    if grep -q '^pypi\.mirror bundle+' /var/lib/metal2model/mirrors/chosen 2>/dev/null; then
        echo "mirrors/all: a bundle has the packages of the host that it was made on: make it again by" >&2
        echo "deploys/bundle.py on one of the same release that declares the same." >&2
    fi
    echo "Check that the host reaches a Python package index (mirrors/pypi can name others) and has space below" >&2
    echo "/opt, then run again: what has arrived is kept." >&2
    exit 1
}

if [ ! -x "$uv_home/bin/uv" ]; then
    echo "installing uv into $uv_home"
    rm -rf "$uv_home.part"
    # An older pip brings its own list of authorities; the host's has the company's.
    [ ! -f /etc/ssl/certs/ca-certificates.crt ] || export REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt
    python3 -m venv "$uv_home.part" || explain "python3 could not make an environment (is python3-venv installed?)"
    "$uv_home.part/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --no-cache-dir \
        --progress-bar=off --require-hashes --no-deps --only-binary=:all: -r "$uv_requirements" ||
        explain "uv could not be installed"
    # Its program needs no Python and may move; nothing else of the environment is used.
    sync -f "$uv_home.part"
    mv -T "$uv_home.part" "$uv_home"
fi

echo "installing the packages of $requirements"
rm -rf "$stage"
"$uv_home/bin/uv" venv --quiet --relocatable --python "${python:-/usr/bin/python3}" "$stage" ||
    explain "the environment could not be made"
# Wheels alone: nothing is compiled on the host, and no package runs code of its own to be installed.
"$uv_home/bin/uv" pip install --quiet --python "$stage/bin/python" --require-hashes --no-deps --only-binary=:all: \
    --compile-bytecode -r "$requirements" || explain "the packages could not be installed"
[ -z "$module" ] || "$stage/bin/python" -c "import $module" || explain "$module is installed, but Python cannot load it"
sync -f "$stage"
# One that is there was made for a Python that the host has no more.
rm -rf "$target"
mv -T "$stage" "$target"
rm -rf "$cache"
