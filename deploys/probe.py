"""
Look at the hosts, change nothing.

    pyinfra inventories/lab.py deploys/probe.py -y
    pyinfra inventories/lab.py deploys/probe.py -y --data json=hosts.json

A host needs no declaration for this: the table suggests the tags to write into the inventory.
"""

from pyinfra import host

from roles.common.connection import send_at_once
from roles.probe.deploy import REPORT, deploy_probe

send_at_once(host)
deploy_probe(report=REPORT, json_to=host.data.get("json"))
