"""Make each host what the inventory says of it, and prove it: pyinfra inventories/lab.py deploys/full.py"""

from functools import partial

from pyinfra import host

from roles.base.deploy import deploy_base
from roles.common.connection import send_at_once
from roles.common.hardware import Hardware
from roles.common.operations import Unit, units
from roles.declaration import UNIT_PATTERNS, declaration_of, lan_of
from roles.dify.deploy import deploy_dify
from roles.docker.deploy import deploy_docker
from roles.intel_gpu.deploy import deploy_intel_gpu, deploy_intel_gpu_proof
from roles.ipex_llm.deploy import deploy_ipex_llm
from roles.kernel.deploy import deploy_kernel, deploy_kernel_settled
from roles.ktransformers.deploy import deploy_ktransformers
from roles.lan_cache.deploy import deploy_lan_cache
from roles.llama_cpp.deploy import deploy_llama_cpp
from roles.mirrors.deploy import deploy_mirrors
from roles.models.deploy import deploy_models, deploy_unwanted_models
from roles.nvidia_gpu.deploy import deploy_nvidia_gpu, deploy_nvidia_gpu_proof
from roles.ollama.deploy import deploy_ollama
from roles.open_webui.deploy import deploy_open_webui
from roles.preflight.deploy import deploy_preflight, deploy_warnings
from roles.ray.deploy import deploy_ray
from roles.reboot.deploy import deploy_reboot
from roles.transformers_serve.deploy import deploy_transformers_serve
from roles.tuning.deploy import deploy_tuning
from roles.verify.deploy import deploy_verify
from roles.vllm.deploy import deploy_vllm

send_at_once(host)
declared = declaration_of(host)
report = host.get_fact(Hardware)
tags, patience = declared.tags, declared.base.lock_timeout_seconds

deploy_preflight(findings=declared.findings(report), lang=declared.lang)
if declared.lan_cache:
    deploy_mirrors(options=declared.mirrors, lock_timeout_seconds=patience)
    deploy_lan_cache(
        options=declared.lan_cache, models_directory=declared.models.directory, lock_timeout_seconds=patience
    )
# Nothing to do where that was done; but other hosts are no earlier with it, and find the cache at work.
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
have_models = partial(
    deploy_models,
    options=declared.models,
    look_into=declared.models_to_look_into,
    judge=partial(declared.judge, report),
    lan=lan_of(host),
    bundle=declared.mirrors.all,
    lock_timeout_seconds=patience,
)
if declared.is_seed:
    have_models()
# Nothing to do on the seeds; the other hosts have their models from them.
have_models()
if declared.docker:
    deploy_docker(
        options=declared.docker,
        tags=tags,
        report=report,
        lock_timeout_seconds=patience,
        bundle=declared.mirrors.all,
    )
if declared.gone_units:
    units(
        name="Stop the servers that are not wanted any more",
        units=[Unit(name, present=False) for name in declared.gone_units],
    )
if declared.ray:
    deploy_ray(options=declared.ray, environment=declared.ray_environment)
if declared.llama_cpp:
    deploy_llama_cpp(options=declared.llama_cpp, models=declared.models_by_name(), tags=tags, report=report)
if declared.ollama:
    deploy_ollama(options=declared.ollama, models=declared.models_by_name(), tags=tags, report=report)
if declared.vllm:
    deploy_vllm(
        options=declared.vllm,
        models=declared.models_by_name(),
        tags=tags,
        report=report,
        cluster=declared.ray_client_settings,
        bundle=declared.mirrors.all,
    )
if declared.ipex_llm:
    deploy_ipex_llm(options=declared.ipex_llm, models=declared.models_by_name())
if declared.ktransformers:
    deploy_ktransformers(options=declared.ktransformers, models=declared.models_by_name(), report=report)
if declared.transformers_serve:
    deploy_transformers_serve(options=declared.transformers_serve, models=declared.models_by_name(), tags=tags)
if declared.open_webui:
    deploy_open_webui(options=declared.open_webui, servers=declared.servers(), bundle=declared.mirrors.all)
if declared.dify:
    deploy_dify(options=declared.dify)
if declared.models.remove_unwanted:
    deploy_unwanted_models(links=declared.links_to_models)
deploy_warnings(lang=declared.lang)
deploy_verify(endpoints=declared.endpoints(), unit_patterns=UNIT_PATTERNS, json_to=declared.json_to)
