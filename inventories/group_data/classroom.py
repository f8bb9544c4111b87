"""What every PC of the group `classroom` is to be (see inventories/classroom.py)."""

ssh_user = "teacher"
_sudo = True

tags = ["cpu"]
lang = "zh"
mirrors = {"apt": ["tuna", "ustc", "aliyun"], "pypi": ["tuna", "aliyun"]}
models = {"hub": ["modelscope", "huggingface"], "wanted": {"deepseek-r1-distill-qwen-1.5b-q4": {}}}
llama_cpp = {
    "instances": {
        "tutor": {"model": "deepseek-r1-distill-qwen-1.5b-q4", "port": 8000, "context_length": 4096},
    },
}
