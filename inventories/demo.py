"""The throwaway host that ./run demo makes, and looks after.

./run demo writes down how it is reached and which llama-server release its fixtures offer; all else is written
here as in any inventory.
"""

import json
import os
from pathlib import Path

_written = Path(os.environ.get("M2M_DEMO", "/run/metal2model-bed/demo.json"))
if not _written.exists():
    raise SystemExit(f"{_written} is not there: ./run demo writes it when it makes the demo host. Run ./run demo.")
_demo = json.loads(_written.read_text())

demo = [
    (
        "demo",
        {
            **_demo["connection"],
            "tags": ["cpu"],
            "mirrors": {"apt": ["tuna", "ustc"], "pypi": ["tuna", "ustc"]},
            "models": {
                "wanted": {
                    "tiny": {
                        "repo": "metal2model-fixtures/tiny-random-GGUF",
                        "hub": "huggingface",
                        "revision": _demo["revision"],
                        "files": ["tiny-random-F32.gguf"],
                    },
                },
            },
            "llama_cpp": {
                "version": _demo["llama_cpp"]["version"],
                "sha256": _demo["llama_cpp"]["sha256"],
                "instances": {
                    "tiny": {"model": "tiny", "port": 8000, "context_length": 2048, "min_tokens_per_second": 1},
                },
            },
        },
    ),
]
