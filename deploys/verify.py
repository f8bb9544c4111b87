"""Check, and change nothing: do the declared servers answer? pyinfra inventories/lab.py deploys/verify.py -y"""

from pyinfra import host

from roles.common.connection import send_at_once
from roles.declaration import UNIT_PATTERNS, declaration_of
from roles.verify.deploy import deploy_verify

send_at_once(host)
declared = declaration_of(host)
deploy_verify(endpoints=declared.endpoints(), unit_patterns=UNIT_PATTERNS, json_to=declared.json_to)
