"""Has XLA compile with little care what runs for a second.

    XLA_FLAGS="$(python tests/quick_xla.py)" python ...

Most of the time would go into making good code.
"""

from __future__ import annotations

import importlib.metadata


def flags() -> str:
    """What `XLA_FLAGS` says, for the version of XLA that this Python has; does not import it."""
    chosen = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
    version = tuple(int(x) for x in importlib.metadata.version("jaxlib").split(".")[:2])
    if version < (0, 11):  # XLA ends a process that names a flag it does not know
        chosen.append("--xla_cpu_use_fusion_emitters=false")
        # Workers and compilations beside each other have the processors busy as it is.
        chosen.append("--xla_cpu_parallel_codegen_split_count=1")
    return " ".join(chosen)


if __name__ == "__main__":
    print(flags())
