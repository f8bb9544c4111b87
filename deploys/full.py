"""Make each host what the inventory says of it, and prove it: pyinfra inventories/lab.py deploys/full.py"""

from pyinfra import host

from roles.base.deploy import deploy_base
from roles.common.connection import send_at_once
from roles.common.hardware import Hardware
from roles.declaration import declaration_of
from roles.llama_cpp.deploy import deploy_llama_cpp
from roles.mirrors.deploy import deploy_mirrors
from roles.models.deploy import deploy_models
from roles.preflight.deploy import deploy_preflight
from roles.tuning.deploy import deploy_tuning
from roles.verify.deploy import deploy_verify

send_at_once(host)
declared = declaration_of(host)
report = host.get_fact(Hardware)

deploy_preflight(declared.tags, report, declared.lang, declared.problems(report))
deploy_mirrors(declared.mirrors)
deploy_base(declared.base)
deploy_tuning(declared.tuning, report)
deploy_models(declared.models)
if declared.llama_cpp:
    deploy_llama_cpp(declared.llama_cpp, declared.models_by_name(), report)
deploy_verify(declared.endpoints(), declared.json_to)
