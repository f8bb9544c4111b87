"""Make each host what the inventory says of it, and prove it: pyinfra inventories/lab.py deploys/full.py"""

from pyinfra import host

from roles.base.deploy import deploy_base
from roles.common.connection import send_at_once
from roles.common.hardware import Hardware
from roles.declaration import UNIT_PATTERNS, declaration_of
from roles.llama_cpp.deploy import deploy_llama_cpp
from roles.mirrors.deploy import deploy_mirrors
from roles.models.deploy import deploy_models
from roles.preflight.deploy import deploy_preflight
from roles.tuning.deploy import deploy_tuning
from roles.verify.deploy import deploy_verify

send_at_once(host)
declared = declaration_of(host)
report = host.get_fact(Hardware)

deploy_preflight(tags=declared.tags, report=report, lang=declared.lang, more=declared.problems(report))
deploy_mirrors(options=declared.mirrors, lock_timeout_seconds=declared.base.lock_timeout_seconds)
deploy_base(options=declared.base)
deploy_tuning(options=declared.tuning, report=report)
deploy_models(options=declared.models)
if declared.llama_cpp:
    deploy_llama_cpp(options=declared.llama_cpp, models=declared.models_by_name(), report=report)
deploy_verify(endpoints=declared.endpoints(), unit_patterns=UNIT_PATTERNS, json_to=declared.json_to)
