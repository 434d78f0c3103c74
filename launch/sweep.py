"""One distillation with several settings and seeds, and one table of all.

    python launch/sweep.py --config=configs/merge.py:pong=pong.pth --workdir=runs/losses \
        --over='learn.loss=kl,q_values;seed=0,1,2'

Every combination is a run in a directory of its own, `WORKDIR/learn.loss=kl,seed=0`. They are made
one after another; those that have ended are not made again, and one that was stopped goes on.
One that cannot be made, as its learning diverges, keeps none of the others from it; the exit code
is 2 then.
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

    from jaxdistill import metrics, settings
    from jaxdistill.report import tables
    from jaxdistill.run import distill, recipe, sweep

    workdir, chosen = pathlib.Path(_WORKDIR.value), sweep.variants(_OVER.value)
    made = []
    for variant in chosen:  # all are checked before the first begins
        config = copy.deepcopy(_CONFIG.value)
        for field, value in variant.changes.items():
            try:
                config.update_from_flattened_dict({field: value})
            except (KeyError, TypeError) as error:
                raise ValueError(f"--over: {field}={value!r}: {error.args[0]}") from error
        made.append((variant, settings.build(recipe.Settings, config.to_dict())))
    array = os.environ.get("SLURM_ARRAY_TASK_ID")
    index = int(array) if _INDEX.value is None and array else _INDEX.value
    if index is not None:
        if index >= len(made):
            raise ValueError(f"--index is {index}, expected less than the {len(made)} variants")
        made = made[index : index + 1]
    failed = []
    for variant, run_settings in made:
        metrics.say(variant.name)
        try:
            result = distill.distill(
                run_settings, workdir / variant.name, cache_dir=cache_dir(), command=command()
            )
        except ValueError as error:  # such as learning that diverges: the others are made
            failed.append(f"{variant.name}: {error}")
            metrics.say(f"not made: {error}")
            continue
        tables.print_result(result)
    if ended := sweep.results(chosen, workdir):
        metrics.table(
            f"retention, {len(ended)} of {len(chosen)} runs: median [least, most] over seeds",
            *sweep.rows(ended),
        )
    if failed:
        raise ValueError("; ".join(failed))


if __name__ == "__main__":
    run(main, resumes=True)
