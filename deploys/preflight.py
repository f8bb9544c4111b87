"""
Compare the hosts with what the inventory says of them, change nothing.

    pyinfra inventories/lab.py deploys/preflight.py -y
    pyinfra inventories/lab.py deploys/preflight.py -y --data json=findings.json

Exit status 1 when something speaks against a host.
"""

from pyinfra import host

from roles.common.connection import send_at_once
from roles.common.hardware import Hardware
from roles.declaration import declaration_of
from roles.preflight.deploy import deploy_preflight_report

send_at_once(host)
declared = declaration_of(host)
findings = declared.findings(host.get_fact(Hardware))
deploy_preflight_report(findings=findings, lang=declared.lang, json_to=declared.json_to)
