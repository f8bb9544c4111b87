"""What an image has, and a host needs, so that Docker runs there: a container's own containers."""

PACKAGES = ("docker.io", "docker-cli", "docker-compose", "docker-registry", "busybox-static", "python3")
"""Debian 13's. The last three are for what tests put into images and registries (tests/e2e/containers.py)."""

NSPAWN = (
    "--capability=all",
    "--system-call-filter=@keyring",
    "--system-call-filter=bpf",
    "--bind=/dev/fuse",
    "--bind={disk}/docker:/var/lib/docker",
)
"""`extra_nspawn` for a host in which dockerd is to run; overlayfs, its store, cannot lie on another overlayfs."""

# containerd finds runc by the PATH of its unit, where /usr/local comes first.
_RUNC = """\
#!/bin/sh
# The bed's: limits stay as the host has them. Raising one (`--ulimit memlock=-1`) takes CAP_SYS_RESOURCE, which the
# machine below the bed may not have to give.
for word; do
    [ "${before-}" != --bundle ] || bundle=$word
    before=$word
done
[ -z "${bundle-}" ] || sed -i 's/"rlimits":\\[[^]]*\\]/"rlimits":[]/' "$bundle/config.json"
exec /usr/sbin/runc "$@"
"""

IMAGE_FILES = {"usr/local/sbin/runc": _RUNC}

IMAGE_SCRIPT = """
chmod 0755 /usr/local/sbin/runc
# Where a test wants a registry, it starts one of its own.
systemctl -q disable docker-registry.service
"""
"""Runs in the image."""
