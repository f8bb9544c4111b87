"""The whole declaration of a host: its tags and every role's options, loaded and checked once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pyinfra.api import Host, Inventory
from pyinfra.api.arguments import all_global_arguments
from pyinfra.connectors.ssh import ConnectorData
from pyinfra.context import ctx_state

from roles.base.options import BaseOptions
from roles.bundle.options import BundleOptions
from roles.common.bundle import moved
from roles.common.container import ContainerUser
from roles.common.endpoint import Endpoint
from roles.common.engine import EngineOptions, port_collisions, reachable
from roles.common.findings import Finding
from roles.common.fit import in_memory_together, together
from roles.common.hardware import HardwareReport
from roles.common.kernels import KernelRange
from roles.common.lock import Tag, declared_cards, vendors_of
from roles.common.model import Model, Shape
from roles.common.options import Listening, OptionError, OptionProblem, Options, did_you_mean
from roles.common.python import PythonEnvironment
from roles.common.systemd import hidden_from_units
from roles.dify.options import DifyOptions
from roles.dify.verify import UNITS as DIFY_UNITS
from roles.dify.verify import endpoints as dify_endpoints
from roles.docker.options import DockerOptions
from roles.docker.plan import findings as docker_findings
from roles.intel_gpu.options import IntelGpuOptions
from roles.intel_gpu.plan import findings as intel_gpu_findings
from roles.ipex_llm.options import IpexLlmOptions
from roles.ipex_llm.units import unit_name as ipex_llm_unit
from roles.ipex_llm.verify import UNITS as IPEX_LLM_UNITS
from roles.ipex_llm.verify import endpoints as ipex_llm_endpoints
from roles.kernel.options import KernelOptions
from roles.kernel.plan import findings as kernel_findings
from roles.ktransformers.options import KTransformersOptions
from roles.ktransformers.units import unit_name as ktransformers_unit
from roles.ktransformers.verify import UNITS as KTRANSFORMERS_UNITS
from roles.ktransformers.verify import endpoints as ktransformers_endpoints
from roles.lan_cache.options import LanCacheOptions, check_models_directory
from roles.lan_cache.verify import UNITS as LAN_CACHE_UNITS
from roles.lan_cache.verify import endpoints as lan_cache_endpoints
from roles.llama_cpp.options import LlamaCppOptions
from roles.llama_cpp.units import unit_name as llama_cpp_unit
from roles.llama_cpp.verify import UNITS as LLAMA_SERVER_UNITS
from roles.llama_cpp.verify import endpoints as llama_cpp_endpoints
from roles.mirrors.options import MirrorsOptions
from roles.models.options import ModelsOptions
from roles.models.units import Lan, Seed
from roles.nvidia_gpu.options import NvidiaGpuOptions
from roles.nvidia_gpu.plan import findings as nvidia_gpu_findings
from roles.nvidia_gpu.plan import version as nvidia_driver
from roles.ollama.options import OllamaOptions
from roles.ollama.verify import UNITS as OLLAMA_UNITS
from roles.ollama.verify import endpoints as ollama_endpoints
from roles.open_webui.options import OpenWebuiOptions
from roles.open_webui.verify import UNITS as OPEN_WEBUI_UNITS
from roles.open_webui.verify import endpoints as open_webui_endpoints
from roles.preflight.findings import findings as preflight_findings
from roles.preflight.messages import sentence, severity
from roles.ray.options import RayOptions
from roles.ray.units import ENVIRONMENT as RAY_ENVIRONMENT
from roles.ray.units import client_settings
from roles.ray.verify import UNITS as RAY_UNITS
from roles.ray.verify import endpoints as ray_endpoints
from roles.reboot.options import RebootOptions
from roles.transformers_serve.options import TransformersServeOptions
from roles.transformers_serve.units import unit_name as transformers_serve_unit
from roles.transformers_serve.verify import UNITS as TRANSFORMERS_SERVE_UNITS
from roles.transformers_serve.verify import endpoints as transformers_serve_endpoints
from roles.tuning.options import TuningOptions
from roles.vllm.options import VllmOptions
from roles.vllm.plan import findings as vllm_findings
from roles.vllm.units import environment_of as vllm_environment
from roles.vllm.units import unit_name as vllm_unit
from roles.vllm.verify import UNITS as VLLM_UNITS
from roles.vllm.verify import endpoints as vllm_endpoints

PYINFRA_KEYS = frozenset(ConnectorData.__annotations__) | {name for name, _ in all_global_arguments()}
"""Host data that pyinfra itself reads: how to connect, and arguments of every operation."""

UNIT_PATTERNS = (
    LLAMA_SERVER_UNITS,
    RAY_UNITS,
    OLLAMA_UNITS,
    VLLM_UNITS,
    IPEX_LLM_UNITS,
    KTRANSFORMERS_UNITS,
    TRANSFORMERS_SERVE_UNITS,
    OPEN_WEBUI_UNITS,
    DIFY_UNITS,
    LAN_CACHE_UNITS,
)
"""Names of the units of every server, and of the pages before them."""


UNIT_NAMES: Mapping[str, Callable[[str], str]] = {
    "llama_cpp": llama_cpp_unit,
    "vllm": vllm_unit,
    "ipex_llm": ipex_llm_unit,
    "ktransformers": ktransformers_unit,
    "transformers_serve": transformers_serve_unit,
}
"""Engine with a unit for each instance -> the name of an instance's."""

FETCHED: Mapping[str, Sequence[str]] = {
    "docker": ("repository_url", "nvidia_url"),
    "intel_gpu": ("ppa_url", "keyserver_url", "intel_url"),
    "llama_cpp": ("download_url",),
    "ollama": ("download_url",),
}
"""Role -> options that say where it fetches from, for which a bundle has a place of its own."""


def _writable(target: str | None) -> str | None:
    if target is None or target == "-":
        return target
    path = Path(target).absolute()
    if path.is_dir():
        raise ValueError(f"{target!r} is a directory; name a file in it")
    if not path.parent.is_dir():
        raise ValueError(f"{str(path.parent)!r} is no directory on this machine; create it, or choose another path")
    return target


class Declaration(Options):
    """Everything that an inventory says about one host."""

    tags: list[Tag]
    """
    Hardware tags of the host, as in files/hardware.yaml: `cpu`, `b580`, `rtx4090`, `numa`, ... A host with the tag
    `seed` fetches models from outside; the others of the inventory have the same models from it and from each other.
    """

    lang: Literal["en", "zh"] = "en"
    """Language of the preflight messages."""

    json_to: Annotated[str | None, AfterValidator(_writable)] = Field(None, alias="json")
    """Where `verify` and `probe` write their results as JSON: a path on the controller, or `-` for standard output."""

    lan_cache: LanCacheOptions | None = None
    mirrors: MirrorsOptions = MirrorsOptions()
    base: BaseOptions = BaseOptions()
    kernel: KernelOptions = KernelOptions()
    intel_gpu: IntelGpuOptions = IntelGpuOptions()
    nvidia_gpu: NvidiaGpuOptions = NvidiaGpuOptions()
    reboot: RebootOptions = RebootOptions()
    tuning: TuningOptions = TuningOptions()
    models: ModelsOptions = ModelsOptions()
    docker: DockerOptions | None = None
    ray: RayOptions | None = None
    llama_cpp: LlamaCppOptions | None = None
    ollama: OllamaOptions | None = None
    vllm: VllmOptions | None = None
    ipex_llm: IpexLlmOptions | None = None
    ktransformers: KTransformersOptions | None = None
    transformers_serve: TransformersServeOptions | None = None
    open_webui: OpenWebuiOptions | None = None
    dify: DifyOptions | None = None
    bundle: BundleOptions = BundleOptions()

    @model_validator(mode="after")
    def _models_are_declared(self) -> Self:
        for role, engine in self.engines.items():
            for name, instance in engine.present.items():
                option = f"{role}/instances/{name}/model"
                if not instance.model:
                    continue  # the engine gets it by itself
                if instance.model not in self.models.wanted:
                    close = did_you_mean(instance.model, self.models.wanted)
                    raise OptionProblem(
                        option, f"{instance.model!r} is not among models/wanted{close}; declare it there"
                    )
                if problem := engine.cannot_serve(self.models.model(instance.model)):
                    raise OptionProblem(option, f"{instance.model!r} {problem}")
                known = self.models.entry(instance.model)
                if known and known.engines and role not in known.engines:
                    raise OptionProblem(
                        option,
                        f"{instance.model!r} loads in {', '.join(known.engines)} alone, as far as files/models.yaml "
                        f"knows; serve it by that, or another quantisation here",
                    )
        return self

    @model_validator(mode="after")
    def _experts_are_declared(self) -> Self:
        if self.ktransformers:
            try:
                self.ktransformers.check_weights(self.models_by_name())
            except OptionProblem as problem:
                raise OptionProblem(f"ktransformers/{problem.option}", str(problem)) from None
        return self

    @model_validator(mode="after")
    def _options_go_with_the_tags(self) -> Self:
        for role, engine in self.engines.items():
            try:
                engine.check_tags(self.tags)
            except OptionProblem as problem:
                raise OptionProblem(f"{role}/{problem.option}", str(problem)) from None
        return self

    @model_validator(mode="after")
    def _models_can_be_shared(self) -> Self:
        if self.lan_cache and self.lan_cache.models:
            check_models_directory(self.models.directory)
        return self

    @model_validator(mode="after")
    def _seeds_can_be_reached(self) -> Self:
        if self.is_seed and not self.models.lan:
            raise OptionProblem(
                "models/lan",
                "is False on a host with the tag 'seed', which the other hosts would ask for its models in vain; "
                "remove the tag, or this option",
            )
        if self.is_seed and seed_of(self.lan_cache) is None:
            found = "not declared" if self.lan_cache is None else "declared without what that takes"
            raise OptionProblem(
                "tags",
                f"'seed' is declared, and lan_cache is {found}; required: present, models: True, and the address in "
                f"the LAN as listen, since the other hosts ask it for its models; write lan_cache: {{'listen': "
                f"ADDRESS, 'models': True}}",
            )
        return self

    @model_validator(mode="after")
    def _containers_have_docker(self) -> Self:
        for role in type(self).model_fields:
            options = getattr(self, role)
            if self.docker is None and isinstance(options, ContainerUser) and options.needs_docker:
                raise OptionProblem(
                    f"{role}/{options.needs_docker}",
                    "it runs containers, and the docker role is not declared for this host; write docker: {}",
                )
        return self

    @model_validator(mode="after")
    def _ports_are_free(self) -> Self:
        roles = ((name, getattr(self, name)) for name in type(self).model_fields)
        listening = [(role, one) for role, one in roles if isinstance(one, Listening)]
        listeners = [(f"{role}/{path}", port) for role, one in listening for path, port in one.listeners()]
        for option, other, port in port_collisions(listeners):
            raise OptionProblem(option, f"port {port} is {other}'s already; give each server its own")
        return self

    @model_validator(mode="after")
    def _clusters_are_there(self) -> Self:
        for name, instance in (self.vllm.present if self.vllm else {}).items():
            on_ray = instance.distributed_executor_backend == "ray"
            if on_ray and not (self.ray and self.ray.present and self.ray.is_head):
                raise OptionProblem(
                    f"vllm/instances/{name}/distributed_executor_backend",
                    "'ray' needs the head of a Ray cluster on this host; declare the role ray here and on its workers, "
                    "and the instance on the head alone (on workers vllm: {}, for what they compute with)",
                )
        return self

    @model_validator(mode="after")
    def _pages_have_servers(self) -> Self:
        known = [server.name for server in self.servers()]
        for role, page in (("open_webui", self.open_webui), ("dify", self.dify)):
            for name in (page and page.backends) or []:
                if name not in known:
                    close = did_you_mean(name, known)
                    raise OptionProblem(
                        f"{role}/backends",
                        f"{name!r} is no server of this host{close}; there are: {', '.join(known) or 'none'}; name one",
                    )
        return self

    @model_validator(mode="after")
    def _bundle_has_it(self) -> Self:
        if not self.mirrors.all:
            return self
        for option, what in self.beyond_bundles().items():
            raise OptionProblem(
                option,
                f"needs {what}, which no bundle has, and mirrors/all takes everything from one; leave this out, or "
                "mirrors/all",
            )
        nowhere = {"lan_cache": self.lan_cache, "docker/mirrors": self.docker and self.docker.mirrors}
        for option in (option for option, given in nowhere.items() if given):
            raise OptionProblem(
                option, "fetches from outside, and with mirrors/all nothing comes from there; remove this or that"
            )
        return self

    @property
    def is_seed(self) -> bool:
        """Whether it fetches models for others."""
        return "seed" in self.tags

    @property
    def engines(self) -> dict[str, EngineOptions]:
        """The declared kinds of model servers, by role."""
        fields = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: value for name, value in fields if isinstance(value, EngineOptions)}

    def beyond_bundles(self) -> dict[str, str]:
        """Return what this host needs and deploys/bundle.py does not collect: option -> what that is."""
        found = {}
        if self.kernel.source == "mainline":
            found["kernel/source"] = "mainline's builds"
        pulled = self.ollama.served if self.ollama and self.ollama.enabled else {}
        found |= {
            f"ollama/instances/{name}/pull": "a model of Ollama's registry (models/wanted has others)"
            for name, one in pulled.items()
            if one.pull
        }
        for role, one in self._roles():
            if getattr(one, "python", None):
                found[f"{role}/python"] = "a Python that is not the host's"
        if self.ipex_llm and self.ipex_llm.needs_docker:
            found["ipex_llm"] = "an image that is built on the host, of packages from outside"
        if self.dify and self.dify.present:
            found["dify"] = "Dify's source, and the images that its own compose file names"
        return found

    def from_bundle(self) -> Self:
        """Return this declaration with every address below ``mirrors/all``; without that, itself."""
        base = self.mirrors.all
        if base is None:
            return self
        update = {
            role: options.model_copy(update={name: moved(getattr(options, name), base) for name in FETCHED[role]})
            for role, options in self._roles()
            if role in FETCHED
        }
        return self.model_copy(update=update)

    def _roles(self) -> list[tuple[str, Options]]:
        """Return the declared roles with their options."""
        fields = ((name, getattr(self, name)) for name in type(self).model_fields)
        return [(name, value) for name, value in fields if isinstance(value, Options)]

    def findings(self, report: HardwareReport) -> list[Finding]:
        """Return what speaks against this host, or should be known of it: its tags, then the roles in their order."""
        return [
            *preflight_findings(self.tags, report),
            *kernel_findings(self.kernel, self.tags, report),
            *intel_gpu_findings(self.intel_gpu, self.tags, report),
            *nvidia_gpu_findings(self.nvidia_gpu, self.tags, report),
            *self.models.findings(report, self.tags),
            *(docker_findings(self.docker, self.tags, report) if self.docker else []),
            *(self.ray.findings() if self.ray else []),
            *self._exposed(),
            *self._of_servers(report, self.models_by_name()),
            *(self.open_webui.findings(report) if self.open_webui else []),
            *(self.dify.findings(self.servers()) if self.dify else []),
        ]

    def _exposed(self) -> list[Finding]:
        addresses = [(f"{role}/{path}", host) for role, one in self.engines.items() for path, host in one.exposed()]
        return [Finding("exposed", option, {"found": host}) for option, host in addresses]

    def judge(self, report: HardwareReport, shapes: Mapping[str, Shape]) -> tuple[list[str], list[Finding]]:
        """Return what only the models' own files tell: sentences that stop this host, and what is to be known."""
        before = self._of_servers(report, self.models_by_name())
        after = self._of_servers(report, self.models_by_name(shapes))
        found = [finding for finding in after if finding not in before]
        errors = [sentence(finding, self.lang) for finding in found if severity(finding) == "error"]
        return errors, [finding for finding in found if severity(finding) == "warning"]

    def _of_servers(self, report: HardwareReport, models: Mapping[str, Model]) -> list[Finding]:
        """Return what speaks against the model servers, with what is known of their models."""
        driver = nvidia_driver(self.nvidia_gpu, self.tags, report)
        claims = [claim for engine in self.engines.values() for claim in engine.claims(report, self.tags, models)]
        return [
            *(self.llama_cpp.findings(report, self.tags, models) if self.llama_cpp else []),
            *(self.ollama.findings(report, self.tags, models) if self.ollama else []),
            *(vllm_findings(self.vllm, self.tags, report, models, driver) if self.vllm else []),
            *(self.ipex_llm.findings(report, self.tags, models) if self.ipex_llm else []),
            *(self.ktransformers.findings(report, self.tags, models, driver) if self.ktransformers else []),
            *(self.transformers_serve.findings(report, self.tags, models, driver) if self.transformers_serve else []),
            *together(claims, declared_cards(self.tags, report)),
            *in_memory_together(claims, report.memory_mib << 20),
        ]

    @property
    def gone_units(self) -> list[str]:
        """The units of all engines that are declared to be gone; they end before others begin: cards and ports."""
        return [
            unit_name(name)
            for role, unit_name in UNIT_NAMES.items()
            if role in self.engines
            for name, instance in self.engines[role].instances.items()
            if not instance.present
        ]

    def changes_what_boots(self, report: HardwareReport) -> bool:
        """Whether kernel or drivers are to be seen to: a card is declared, a kernel demanded, or one is on trial."""
        return bool(vendors_of(self.tags)) or self.kernel.range != KernelRange() or report.kernel_on_trial

    @property
    def holds_kernels(self) -> bool:
        """Whether upgrades must leave the kernel alone: NVIDIA's signed modules are held, and are made for one."""
        return self.kernel.hold or ("nvidia" in vendors_of(self.tags) and self.nvidia_gpu.hold)

    @property
    def ray_environment(self) -> PythonEnvironment:
        """Where Ray runs: in vLLM's environment, where that is declared, for a node's workers import what computes."""
        return vllm_environment(self.vllm) if self.vllm and self.vllm.method == "native" else RAY_ENVIRONMENT

    @property
    def ray_client_settings(self) -> list[str]:
        """Lines of [Service] with which a server's unit computes on this host's Ray cluster."""
        return client_settings(self.ray) if self.ray else []

    def models_by_name(self, shapes: Mapping[str, Shape] | None = None) -> dict[str, Model]:
        """Return the declared models as the engines see them, with what a host has read of their files."""
        return {name: self.models.model(name, (shapes or {}).get(name)) for name in self.models.wanted}

    @property
    def models_to_look_into(self) -> list[str]:
        """The models of servers that files/models.yaml does not know: whether they fit, only their files can tell."""
        present = [one for engine in self.engines.values() for one in engine.present.values()]
        served = {name for one in present if one.fit != "off" for name in one.loads}
        return [name for name in self.models.wanted if name in served and self.models.entry(name) is None]

    @property
    def links_to_models(self) -> list[str]:
        """Directories whose links lead to models in use: Ollama's, who has others' files in its own store so."""
        return [f"{(self.ollama or OllamaOptions()).models_directory}/blobs"]

    def servers(self) -> list[Endpoint]:
        """Return every model server that must answer on this host."""
        return [endpoint for endpoint in self._programs() if endpoint.model]

    def endpoints(self) -> list[Endpoint]:
        """Return everything that must answer on this host: servers, then the pages before them."""
        return [
            *self._programs(),
            *(open_webui_endpoints(self.open_webui) if self.open_webui else []),
            *(dify_endpoints(self.dify, self.servers()) if self.dify else []),
        ]

    def _programs(self) -> list[Endpoint]:
        return [
            *(lan_cache_endpoints(self.lan_cache) if self.lan_cache else []),
            *(ray_endpoints(self.ray, self.ray_environment) if self.ray else []),
            *(llama_cpp_endpoints(self.llama_cpp, self.tags) if self.llama_cpp else []),
            *(ollama_endpoints(self.ollama, self.tags) if self.ollama else []),
            *(vllm_endpoints(self.vllm, self.tags) if self.vllm else []),
            *(ipex_llm_endpoints(self.ipex_llm) if self.ipex_llm else []),
            *(ktransformers_endpoints(self.ktransformers) if self.ktransformers else []),
            *(transformers_serve_endpoints(self.transformers_serve, self.tags) if self.transformers_serve else []),
        ]


def declaration_of(host: Host) -> Declaration:
    """
    Return what the inventory says of this host.

    The first call checks every host of the run (those of ``--limit``, where it is given), and raises one `OptionError`
    with all problems of all hosts: nothing has been changed anywhere by then.
    """
    return _fleet(host.inventory)[host.name]


def lan_of(host: Host) -> Lan | None:
    """
    Return how a host shares models with the others of its inventory.

    None where none of them is a seed, for a host that is elsewhere (``models/lan``), and for one whose models lie
    where services do not see them.
    """
    seeds, declared = _seeds(host.inventory), declaration_of(host)
    if not seeds or not declared.models.lan or hidden_from_units(declared.models.directory):
        return None
    return Lan(
        seeds=[seed for name, (seed, _) in seeds.items() if name != host.name],
        networks=list(dict.fromkeys(network for _, networks in seeds.values() for network in networks)),
        own=seed_of(declared.lan_cache) if declared.is_seed else None,
    )


def seed_of(options: LanCacheOptions | None) -> Seed | None:
    """Return how the others reach a seed with such a cache; None where they cannot."""
    if options is None or not (options.present and options.models) or options.everywhere:
        return None
    return Seed(options.listen, f"http://{reachable(options.listen)}:{options.port}/models")


@cache
def _seeds(inventory: Inventory) -> dict[str, tuple[Seed, list[str]]]:
    """Return the seeds, those outside of ``--limit`` too, and the networks that each is for."""
    found = {}
    for host in inventory:
        data: dict[str, Any] = host.data.dict()
        if "seed" not in (data.get("tags") or ()):
            continue
        # One that is wrong is refused where it is part of the run, and is of no use to the others.
        with suppress(OptionError):
            options = LanCacheOptions.load(data.get("lan_cache") or {}, where=host.name)
            if seed := seed_of(options):
                found[host.name] = (seed, [options.listen, *options.allow])
    return found


@cache
def _fleet(inventory: Inventory) -> dict[str, Declaration]:
    declarations, problems = {}, []
    for host in inventory:
        if ctx_state.isset() and not ctx_state.get().is_host_in_limit(host):
            continue
        data: dict[str, Any] = host.data.dict()
        ours = {key: value for key, value in data.items() if key not in PYINFRA_KEYS}
        try:
            declarations[host.name] = Declaration.load(ours, where=host.name).from_bundle()
        except OptionError as error:
            problems.append(str(error))
    if problems:
        raise OptionError("the inventory cannot be used as it is, and nothing was changed:\n" + "\n".join(problems))
    return declarations
