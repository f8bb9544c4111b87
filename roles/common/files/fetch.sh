# fetch URL SHA256 FILE ROLE: have FILE with this digest. Resumed where an earlier call was interrupted; a file with
# another digest is deleted. Read before a role's own script by roles/common/operations.py.
set -eu
umask 022
export LC_ALL=C.UTF-8

matches() { [ -f "$2" ] && printf '%s  %s\n' "$1" "$2" | sha256sum --check --status; }

fetch() {
    if ! matches "$2" "$3"; then
        echo "downloading $1"
        curl --fail --location --silent --show-error --continue-at - --output "$3" \
            --connect-timeout 20 --speed-limit 1024 --speed-time 60 --retry 5 --retry-all-errors "$1" || {
            status=$?
            # PREFIX of roles/common/bundle.py.
            bundle=$(sed -n 's/^apt\.mirror bundle+//p' /var/lib/metal2model/mirrors/chosen 2>/dev/null) || true
            case $1 in "$bundle"/*)
                echo "mirrors/all: $1 could not be had from the bundle (curl: exit $status). Check that the host" >&2
                echo "reaches the bundle. If that has no such file, make it again by deploys/bundle.py on a host that" >&2
                echo "declares the same." >&2
                exit 1 ;;
            esac
            echo "$4/download_url: $1 could not be downloaded (curl: exit $status)." >&2
            echo "What has arrived is kept and the next run goes on from there. Check the address and the network," >&2
            echo "or give a mirror of it in $4/download_url." >&2
            exit 1
        }
    fi
    if ! matches "$2" "$3"; then
        found=$(sha256sum "$3")
        rm -f "$3"
        echo "$4/sha256: $1 has sha256 ${found%% *}, required is $2." >&2
        echo "The file was deleted, because a changed archive must not run as a service. If upstream replaced it on" >&2
        echo "purpose, set $4/sha256 to the new digest; else try another $4/download_url." >&2
        exit 1
    fi
}
