"""
Collect what a host was made from into one directory on it, to make others like it where nothing outside is reached.

    pyinfra inventories/lab.py deploys/bundle.py --limit gpu-01

The host is one that deploys/full.py has provisioned, of the same release and architecture as the others, and declares
what they are to have. They find it all by ``mirrors: {all: http://SERVER/bundle}``, or ``file:///PATH``.
"""

from pyinfra import host

from roles.bundle.deploy import deploy_bundle
from roles.common.connection import send_at_once
from roles.common.hardware import Hardware
from roles.declaration import UNIT_PATTERNS, declaration_of
from roles.mirrors.doctor import originals_of
from roles.mirrors.facts import MirrorState
from roles.sources import images_of, sources_of
from roles.verify.deploy import deploy_verify

send_at_once(host)
declared = declaration_of(host)
state = host.get_fact(MirrorState, topics=[], timeout_seconds=declared.mirrors.probe_timeout_seconds)

# What does not work here would not work elsewhere.
deploy_verify(endpoints=declared.endpoints(), unit_patterns=UNIT_PATTERNS, json_to=None)
deploy_bundle(
    options=declared.bundle,
    archives=originals_of(state),
    sources=sources_of(declared, host.get_fact(Hardware), state),
    images=images_of(declared),
    models=list(declared.models.wanted),
    is_from_bundle=declared.mirrors.all is not None,
    beyond=declared.beyond_bundles(),
    made_for=str(state.release),
    lock_timeout_seconds=declared.base.lock_timeout_seconds,
)
