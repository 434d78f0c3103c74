"""One distillation with several settings and seeds, and one table of all.

    python launch/sweep.py --config=configs/merge.py:pong=pong.pth --workdir=runs/losses \
        --over='learn.loss=kl,q_values;seed=0,1,2'

Every combination is a run in a directory of its own, `WORKDIR/learn.loss=kl,seed=0`. They are made
one after another; those that have ended are not made again, and one that was stopped goes on.
One that cannot be made, as its learning diverges, a file is missing or no device can hold it, keeps
none of the others from it; the exit code is 2 then. Results that stand there of other settings are
not counted.
`--index=I` makes the I-th alone, as one of an array of jobs:

    sbatch --array=0-5 launch/slurm.sbatch launch/sweep.py --config=... --over=... --workdir=...

where the index is the job's own. Whoever comes last, or calls again, prints the whole table.
"""

import os
import pathlib

from _cache import cache_dir
from _main import command, run
from absl import flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "what to distil; see configs/")
_OVER = flags.DEFINE_string("over", None, "FIELD=VALUE,VALUE;FIELD=VALUE,VALUE: what differs")
_WORKDIR = flags.DEFINE_string("workdir", None, "directory of all runs; made if it is missing")
_INDEX = flags.DEFINE_integer(
    "index", None, "the only one to make, from 0; by default $SLURM_ARRAY_TASK_ID, or all", 0
)
flags.mark_flags_as_required(["config", "over", "workdir"])


def main() -> None:
    import copy

    import jax

    from jaxdistill import settings, terminal
    from jaxdistill.report import tables
    from jaxdistill.run import distill, distill_settings, sweep
    from jaxdistill.text import one_line

    workdir = pathlib.Path(_WORKDIR.value)
    chosen = {}
    for variant in sweep.variants(_OVER.value):  # all are checked before the first begins
        config = copy.deepcopy(_CONFIG.value)
        for field, value in variant.changes.items():
            try:
                config.update_from_flattened_dict({field: value})
            except (IndexError, KeyError, TypeError) as error:
                raise ValueError(f"--over: {field}={value!r}: {error.args[0]}") from error
        chosen[variant] = settings.build(distill_settings.Settings, config.to_dict())
    array = os.environ.get("SLURM_ARRAY_TASK_ID")
    index = int(array) if _INDEX.value is None and array else _INDEX.value
    made = [*chosen]
    if index is not None:
        if index >= len(made):
            raise ValueError(f"--index is {index}, expected less than the {len(made)} variants")
        made = made[index : index + 1]
    failed = {}
    for variant in made:
        terminal.say(variant.name)
        try:
            result = distill.distill(
                chosen[variant], workdir / variant.name, cache_dir=cache_dir(), command=command()
            )
        except (
            ValueError,
            FileNotFoundError,
            MemoryError,
            jax.errors.JaxRuntimeError,
        ) as error:
            # Such as learning that diverges, a file that is not there, or what no device can hold:
            # the others are made. Where the disk is full, they would not be.
            failed[variant] = one_line(" ".join(str(error).split()) or repr(error), 1000)
            terminal.say(f"not made: {failed[variant]}")
            continue
        tables.print_result(result)
    ended, others = sweep.results(chosen, workdir)
    for variant, why in others.items():
        if variant not in failed:
            terminal.say(f"not counted: {why}")
    if ended:
        terminal.table(
            f"retention, {len(ended)} of {len(chosen)} runs: median [least, most] over seeds",
            *sweep.rows(ended),
        )
    if failed:
        raise ValueError("; ".join(f"{variant.name}: {why}" for variant, why in failed.items()))


if __name__ == "__main__":
    run(main, resumes=True)
