"""Names and text of Ollama's unit, and where its things lie: pure functions of the options."""

from __future__ import annotations

from collections.abc import Sequence

from roles.common.rendering import templates
from roles.ollama.options import OllamaOptions

ROOT = "/opt/metal2model/ollama"
PROGRAM = f"{ROOT}/current/bin/ollama"
COMMAND = "/usr/local/bin/ollama"
"""Where people's shells find it: a link."""
USER = "ollama"
UNIT = "ollama.service"
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
SETTINGS_FILE = f"{UNIT_FILE}.d/zz-metal2model.conf"
"""Apart from the unit, which upstream's installer overwrites; last, so that it is stronger than other drop-ins."""
MODELFILES = "/etc/metal2model/ollama"
RECORDS = "/var/lib/metal2model/ollama"
TEMPLATES = templates(__file__)


def modelfile(instance: str) -> str:
    """Return the path of an instance's Modelfile on the host."""
    return f"{MODELFILES}/{instance}.modelfile"


def unit_text(options: OllamaOptions, tags: Sequence[str]) -> str:
    """Return the text of the unit."""
    return TEMPLATES.get_template("ollama.service.j2").render(
        program=PROGRAM,
        user=USER,
        uses_gpu=options.uses_gpu(tags),
        directory=options.models_directory.replace("%", "%%"),
    )


def settings_text(options: OllamaOptions) -> str:
    """Return the text of the drop-in with the daemon's environment."""
    lines = [f"Environment={word}" for word in options.environment_words]
    head = "# Written by metal2model, role ollama. Change ollama in the inventory, not this file."
    return "\n".join([head, "[Service]", *lines]) + "\n"
