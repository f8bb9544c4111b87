"""
Look at what the hosts would fetch from, and how well they can; change nothing.

    pyinfra inventories/lab.py deploys/doctor.py -y
    pyinfra inventories/lab.py deploys/doctor.py -y --data json=sources.json

Exit status 1 when a host cannot have what its declaration needs. From each source come a megabyte at most, and the page
that names the file where only that does.
"""

from pyinfra import host

from roles.common.connection import send_at_once
from roles.common.hardware import Hardware
from roles.declaration import declaration_of
from roles.doctor.deploy import deploy_doctor
from roles.mirrors.facts import MirrorState
from roles.sources import sources_of

send_at_once(host)
declared = declaration_of(host)
silence = declared.mirrors.probe_timeout_seconds
state = host.get_fact(MirrorState, topics=[], timeout_seconds=silence)
sources = sources_of(declared, host.get_fact(Hardware), state)
deploy_doctor(sources=sources, silence_seconds=silence, lang=declared.lang, json_to=declared.json_to)
