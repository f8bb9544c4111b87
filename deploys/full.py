"""Make each host what the inventory says of it, and prove it: pyinfra inventories/lab.py deploys/full.py"""

from pyinfra import host

from roles.base.deploy import deploy_base
from roles.common.connection import send_at_once
from roles.common.hardware import Hardware
from roles.declaration import UNIT_PATTERNS, declaration_of
from roles.intel_gpu.deploy import deploy_intel_gpu, deploy_intel_gpu_proof
from roles.kernel.deploy import deploy_kernel, deploy_kernel_settled
from roles.llama_cpp.deploy import deploy_llama_cpp
from roles.mirrors.deploy import deploy_mirrors
from roles.models.deploy import deploy_models
from roles.nvidia_gpu.deploy import deploy_nvidia_gpu, deploy_nvidia_gpu_proof
from roles.preflight.deploy import deploy_preflight, deploy_warnings
from roles.reboot.deploy import deploy_reboot
from roles.tuning.deploy import deploy_tuning
from roles.verify.deploy import deploy_verify

send_at_once(host)
declared = declaration_of(host)
report = host.get_fact(Hardware)
tags, patience = declared.tags, declared.base.lock_timeout_seconds

deploy_preflight(findings=declared.findings(report), lang=declared.lang)
deploy_mirrors(options=declared.mirrors, lock_timeout_seconds=patience)
deploy_base(options=declared.base)
if declared.changes_what_boots(report):
    deploy_kernel(options=declared.kernel, tags=tags, report=report, lock_timeout_seconds=patience)
    deploy_intel_gpu(options=declared.intel_gpu, tags=tags, report=report, lock_timeout_seconds=patience)
    deploy_nvidia_gpu(options=declared.nvidia_gpu, tags=tags, report=report, lock_timeout_seconds=patience)
    deploy_reboot(options=declared.reboot)
    deploy_kernel_settled(
        options=declared.kernel,
        tags=tags,
        report=report,
        hold=declared.holds_kernels,
        reboot_timeout_seconds=declared.reboot.timeout_seconds,
    )
    deploy_intel_gpu_proof(options=declared.intel_gpu, tags=tags, report=report)
    deploy_nvidia_gpu_proof(options=declared.nvidia_gpu, tags=tags, report=report)
deploy_tuning(options=declared.tuning, report=report)
deploy_models(options=declared.models)
if declared.llama_cpp:
    deploy_llama_cpp(options=declared.llama_cpp, models=declared.models_by_name(), tags=tags, report=report)
deploy_warnings(lang=declared.lang)
deploy_verify(endpoints=declared.endpoints(), unit_patterns=UNIT_PATTERNS, json_to=declared.json_to)
