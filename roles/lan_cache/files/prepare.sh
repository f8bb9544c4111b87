# Before nginx starts, while it runs, when it has ended: prepare.sh start|refresh|stop STORE NAME=HOST:PORT...
# Written by metal2model, role lan_cache.
set -eu
mode=$1 store=$2
shift 2
run=/run/lan-cache marker=$store/synced boot=$(cat /proc/sys/kernel/random/boot_id)

# A cached file gets its name when it is whole, but that is on disk only after a while: a power cut can leave one that is
# short. What is older than the marker was on disk when the marker got its name.
synced() {
    echo "$boot" >"$marker.part"
    sync -f "$store"
    mv -f "$marker.part" "$marker"
}

case $mode in
start)
    if [ "$(cat "$marker" 2>/dev/null)" != "$boot" ]; then
        if [ -e "$marker" ]; then newer="-newer $marker"; else newer=; fi
        find "$store" -mindepth 2 -type f $newer -delete
        synced
    fi ;;
refresh) synced ;;
stop)
    # Of systemd.exec(5): after a crash nothing is lost that was written.
    [ "$SERVICE_RESULT" != success ] || synced
    exit 0 ;;
esac

# An upstream for each name. One that is unknown just now keeps the addresses that it had, and at the start gets one where
# nobody answers: then what is cached is served all the same.
for one; do
    host=${one#*=} port=${one##*:} name=${one%%=*}
    host=${host%:*}
    # Sorted: many resolvers give them in another order each time, and that is no reason for nginx to start anew.
    addresses=$(getent ahosts "$host" | sed -n 's/ *STREAM.*//p' | sort -u)
    if [ -z "$addresses" ]; then
        echo "lan_cache: the host does not know $host" >&2
        [ "$mode" = start ] || exit 0
    fi
    echo "upstream $name {"
    echo "${addresses:-127.0.0.1:9}" | sed -e '/:.*:/s/.*/[&]/' -e "/:9\$/!s/\$/:$port/" -e 's/.*/    server &;/'
    echo "    keepalive 16;"
    echo "}"
done >"$run/addresses.part"
if [ "$mode" = start ] || ! cmp -s "$run/addresses.part" "$run/addresses.conf"; then
    mv -f "$run/addresses.part" "$run/addresses.conf"
    [ "$mode" = start ] || kill -HUP "$(cat "$run/nginx.pid")"
fi
