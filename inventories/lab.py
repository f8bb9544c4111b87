"""A lab of three machines. Copy this file, put in your own addresses, and run:

pyinfra inventories/lab.py deploys/full.py

Every option that is not written here has the default of docs/options.md.
"""

_china = {"apt": ["tuna", "ustc"], "pypi": ["tuna", "ustc"]}

lab = [
    (
        # One PC with an Intel Arc B580 (12 GB), fresh from Ubuntu 24.04's installer.
        "b580-box",
        {
            "ssh_hostname": "192.0.2.10",
            "ssh_user": "admin",
            "_sudo": True,
            "tags": ["b580"],
            "lang": "zh",
            "mirrors": _china,
            "intel_gpu": {"ppa_url": "https://launchpad.proxy.ustclug.org/kobuk-team/intel-graphics/ubuntu"},
            "models": {"hub": "modelscope", "wanted": {"deepseek-r1-distill-qwen-7b-q4": {}}},
            "llama_cpp": {
                "instances": {
                    "r1-7b": {
                        "model": "deepseek-r1-distill-qwen-7b-q4",
                        "port": 8000,
                        "context_length": 8192,
                        "gpu_layers": "all",
                        "min_tokens_per_second": 20,
                    },
                },
            },
        },
    ),
    (
        # A rack server: two sockets, eight RTX 4090, fresh from Ubuntu 24.04's installer.
        "gpu-server",
        {
            "ssh_hostname": "192.0.2.20",
            "ssh_user": "root",
            "tags": ["rtx4090", "numa"],
            "models": {"directory": "/data/models", "wanted": {"deepseek-r1-distill-llama-70b": {}}},
            "vllm": {
                "instances": {
                    "r1-70b": {
                        "model": "deepseek-r1-distill-llama-70b",
                        "port": 5000,
                        "context_length": 8192,
                        "parallel": 10,
                        "tensor_parallel": 8,
                        "reasoning_parser": "deepseek_r1",
                        "min_tokens_per_second": 10,
                    },
                },
            },
            # A chat page that offers the model above; the card at the run's end says where its first password is.
            "open_webui": {},
        },
    ),
    (
        # A server without a card: two small models on its processors, each with its own port and key.
        "cpu-server",
        {
            "ssh_hostname": "192.0.2.30",
            "ssh_user": "root",
            "tags": ["cpu"],
            "models": {"wanted": {"deepseek-r1-distill-qwen-1.5b-q4": {}, "qwen3-0.6b-q8": {}}},
            "llama_cpp": {
                "instances": {
                    "r1-1.5b": {"model": "deepseek-r1-distill-qwen-1.5b-q4", "port": 8000, "threads": 8},
                    "qwen3": {"model": "qwen3-0.6b-q8", "port": 8001, "threads": 4},
                },
            },
        },
    ),
]
