"""What "works" means for the ipex_llm role."""

from __future__ import annotations

from roles.common.endpoint import Endpoint
from roles.common.engine import endpoint
from roles.ipex_llm.options import IpexLlmOptions
from roles.ipex_llm.units import unit_name

UNITS = unit_name("*")
"""What the names of this role's units are like."""
ATTEMPTS = 5


def endpoints(options: IpexLlmOptions) -> list[Endpoint]:
    """
    Return the servers that must answer on this host.

    They listen once the model is loaded, and the first answers may fail while kernels are compiled. What they have of
    OpenAI's API stands in python/llm/src/ipex_llm/serving/fastapi/api_server.py upstream: no list of models, no count
    of tokens, and a chat whose template is Llama 2's, whatever the model.
    """
    return [
        endpoint(
            "ipex_llm",
            name,
            one,
            unit_name(name),
            health_path="/openapi.json",
            api="completions",
            attempts=ATTEMPTS,
            notes=("/v1/completions alone: its chat template is Llama 2's, and there is no /v1/models to choose from",),
        )
        for name, one in options.present.items()
    ]
