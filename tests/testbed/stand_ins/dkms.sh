#!/bin/sh
# Stand-in of metal2model's test bed: "builds" a module by writing down which it is. It knows one module, nvidia, needs
# the kernel's headers as the real one does, and fails as that does where /etc/bed/dkms-fails is.
state=/var/lib/dkms
arch=x86_64

headers_of() {
    [ -d "/usr/src/linux-headers-$1" ] || [ -e "/lib/modules/$1/build" ]
}

installed() {
    [ -e "/lib/modules/$1/updates/dkms/nvidia.ko" ]
}

# A line NAME/VERSION for each module that was added.
added() {
    for source in "$state"/*/*/source; do
        [ -e "$source" ] || continue
        version=$(dirname "$source")
        echo "$(basename "$(dirname "$version")")/$(basename "$version")"
    done
}

build() {
    module=$1 kernel=$2
    here=$state/$module
    if ! headers_of "$kernel"; then
        echo "Error! Your kernel headers for kernel $kernel cannot be found at /lib/modules/$kernel/build or /lib/modules/$kernel/source." >&2
        echo "Please install the linux-headers-$kernel package or use the --kernelsourcedir option to tell DKMS where it's located." >&2
        return 21
    fi
    if [ -e /etc/bed/dkms-fails ]; then
        mkdir -p "$here/build"
        {
            echo "DKMS make.log for ${module%/*}-${module#*/} for kernel $kernel ($arch)"
            echo "error: implicit declaration of function 'bed_was_told_to_fail'"
            echo "make: *** [Makefile:115: modules] Error 2"
        } >"$here/build/make.log"
        echo "Building module:"
        echo "Cleaning build area..."
        echo "'make' -j2 NV_EXCLUDE_BUILD_MODULES='' KERNEL_UNAME=$kernel modules.....(bad exit status: 2)"
        echo "Error! Bad return status for module build on kernel: $kernel ($arch)" >&2
        echo "Consult $here/build/make.log for more information." >&2
        return 10
    fi
    mkdir -p "$here/$kernel/$arch/module" "/lib/modules/$kernel/updates/dkms"
    flavour=$(sed -n 's/^# flavour=//p' "/usr/src/${module%/*}-${module#*/}/dkms.conf")
    # Without the line "signed": the archive's key did not see it.
    printf '%s\n%s\n' "${module#*/}" "$flavour" >"$here/$kernel/$arch/module/nvidia.ko"
    cp "$here/$kernel/$arch/module/nvidia.ko" "/lib/modules/$kernel/updates/dkms/nvidia.ko"
    echo "Building module:"
    echo "Cleaning build area..."
    echo "'make' -j2 NV_EXCLUDE_BUILD_MODULES='' KERNEL_UNAME=$kernel modules......"
    echo "Signing module $here/build/nvidia.ko"
    echo "nvidia.ko:"
    echo " - Installing to /lib/modules/$kernel/updates/dkms/"
    echo "depmod..."
}

status() {
    added | while read -r module; do
        none=yes
        for built in "$state/$module"/*/"$arch"; do
            [ -d "$built" ] || continue
            none=no
            kernel=$(basename "$(dirname "$built")")
            if installed "$kernel"; then word=installed; else word=built; fi
            echo "$module, $kernel, $arch: $word"
        done
        [ $none = no ] || echo "$module: added"
    done
}

remove() {
    for built in "$state/$1"/*/"$arch"; do
        [ -d "$built" ] || continue
        kernel=$(basename "$(dirname "$built")")
        rm -f "/lib/modules/$kernel/updates/dkms/nvidia.ko"
        rmdir "/lib/modules/$kernel/updates/dkms" "/lib/modules/$kernel/updates" 2>/dev/null
    done
    rm -rf "${state:?}/$1"
    rmdir "$(dirname "$state/$1")" 2>/dev/null
    echo "Deleting module ${1%/*}-${1#*/} completely from the DKMS tree."
}

action=$1
[ $# -eq 0 ] || shift
module='' version='' failed='' kernel=$(uname -r)
while [ $# -gt 0 ]; do
    case $1 in
        -m) module=$2 && shift ;;
        -v) version=$2 && shift ;;
        -k) kernel=$2 && shift ;;
        --all | --force) ;;
        */*) module=${1%/*} version=${1#*/} ;;
        *) ;;
    esac
    shift
done
case $action in
    status) status ;;
    --version | -V) echo "dkms-3.0.11" ;;
    add)
        mkdir -p "$state/$module/$version"
        ln -sfn "/usr/src/$module-$version" "$state/$module/$version/source"
        echo "Creating symlink $state/$module/$version/source -> /usr/src/$module-$version"
        ;;
    build | install)
        [ -e "$state/$module/$version/source" ] || "$0" add -m "$module" -v "$version"
        build "$module/$version" "$kernel"
        ;;
    remove) remove "$module/$version" ;;
    unbuild) # what its hook of a removed kernel does
        rm -rf "$state"/*/*/"$kernel" "/lib/modules/$kernel/updates/dkms"
        rmdir "/lib/modules/$kernel/updates" 2>/dev/null
        exit 0
        ;;
    autoinstall)
        for module in $(added); do
            [ ! -e "$state/$module/$kernel" ] || continue
            echo "Autoinstall of module ${module} for kernel ${kernel} ($arch)"
            build "$module" "$kernel" || failed=$?
        done
        [ -z "$failed" ] || {
            echo "Error! One or more modules failed to install during autoinstall." >&2
            echo "Refer to previous errors for more information." >&2
            exit 11
        }
        ;;
    *)
        echo "Error! Unknown action specified: \"$action\"" >&2
        exit 5
        ;;
esac
