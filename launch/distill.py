"""Distils experts into one student: `--config=configs/NAME.py --workdir=DIR`.

Any field of the config can be set by flag, as `--config.learn.rounds=200`.

Called again with the same settings it resumes; called on a finished run it prints its table.
"""

from _cache import cache_dir
from _main import BEGAN, command, run, tell_report
from _processes import join_processes
from _wandb import show
from absl import flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "what to distil, as NAME or NAME:GAME=FILE,...; merge is for your experts, quickstart for few "
    "cores (docs/merge.md lists more); or a file of your own",
)
_WORKDIR = flags.DEFINE_string("workdir", None, "directory of this run; made if it is missing")
_PROFILE = flags.DEFINE_string("profile", None, "directory for a jax.profiler trace of 3 rounds")
flags.mark_flags_as_required(["config", "workdir"])


def main() -> None:
    join_processes()  # before what takes seconds to import: half of its flags are refused at once
    from jaxdistill import settings
    from jaxdistill.report import tables
    from jaxdistill.run import distill, distill_settings

    chosen = settings.build(distill_settings.Settings, _CONFIG.value.to_dict())
    show(chosen)
    result = distill.distill(
        chosen,
        _WORKDIR.value,
        cache_dir=cache_dir(),
        command=command(),
        profile=_PROFILE.value,
        began=BEGAN,
    )
    tables.print_result(result)
    tell_report(_WORKDIR.value)


if __name__ == "__main__":
    run(main, resumes=True)
