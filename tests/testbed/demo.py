"""`./run demo`: a bare host becomes a model server that answers, before your eyes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.testbed import RUN_DIR, BedError, artefacts, hub_models, images, say, state_dir
from tests.testbed.hosts import Bed, BedHost

ROOT = Path(__file__).parents[2]
NAME = "demo"
COMMAND = [".venv/bin/pyinfra", "inventories/demo.py", "deploys/full.py", "-y"]
QUESTION = "Say hello."


def main(name: str = NAME) -> int:
    """Make the host, run metal2model on it, and ask the model."""
    began = time.monotonic()
    try:
        with Bed.open() as bed:
            host = bare_host(bed, name)
            write_inventory_data(host)
            say(f"{host.name} is a bare {host.image} host at {host.address}; now: {' '.join(COMMAND)}")
            done = subprocess.run(COMMAND, cwd=ROOT, check=False)
            if done.returncode == 0:
                say(f"A chat completion, asked on the host itself: {QUESTION}")
                print(completion(host))
                say("Words in any order: to llama-server the model is a real one, but its weights are random.")
                say(f"Done in {time.monotonic() - began:.0f} s.")
            say(f"Look inside: ./run ssh {name}    Run it again: {' '.join(COMMAND)}    Remove it: ./run down {name}")
            return done.returncode
    except BedError as error:
        print(f"./run demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. ./run down --all removes what is left.", file=sys.stderr)
        return 130


def bare_host(bed: Bed, name: str) -> BedHost:
    """Boot a host that nothing was installed on, with all that its downloads need at hand."""
    if any(host.name == name for host in bed.hosts()):
        say("The demo host of an earlier run is up: it is replaced")
        bed.down(name)
    say("Preparing the image of the host and the fixtures (the first time, this compiles llama-server: 2-3 minutes)")
    images.layers(state_dir(), "noble")
    artefacts.make_models()
    artefacts.release()
    return bed.up(name)


def write_inventory_data(host: BedHost) -> None:
    """Write down what inventories/demo.py cannot know beforehand."""
    release = artefacts.release()
    data = {
        "connection": host.pyinfra_data(),
        "revision": hub_models.commit_of(artefacts.GGUF_REPOSITORY),
        "llama_cpp": {"version": release.tag, "sha256": release.sha256},
    }
    Path(os.environ.get("M2M_DEMO", RUN_DIR / "demo.json")).write_text(json.dumps(data))


def completion(host: BedHost) -> str:
    """Ask the model as any OpenAI client would, and return its answer."""
    body = {"model": "tiny", "max_tokens": 24, "messages": [{"role": "user", "content": QUESTION}]}
    # The key is read on the host and handed to curl by a file descriptor, so that no process list shows it.
    command = (
        'printf \'header = "Authorization: Bearer %s"\\n\' "$(cat /etc/metal2model/llama_cpp/tiny.key)" | '
        "curl --silent --show-error --fail --config - --json @/dev/fd/3 "
        f"http://127.0.0.1:8000/v1/chat/completions 3<<'END'\n{json.dumps(body)}\nEND"
    )
    return json.dumps(json.loads(host.ssh(command).stdout), indent=2, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
