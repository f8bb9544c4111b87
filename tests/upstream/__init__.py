"""
What the programs that the roles start really accept, read from their own published code, of the pinned versions.

`wheels.py` fetches the few files of a wheel that define a command line, `source.py` reads them without running them,
and `vllm.py`, `sglang.py`, `transformers_serve.py` give a program's `Argument`s, which `arguments.py` checks command
lines against. llama-server, which the bed builds, is simply asked: `llama_server.py`.
"""
