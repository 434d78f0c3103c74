"""Trains an expert: `--config=configs/train_expert.py --config.games=pong --workdir=DIR`.

Called again with the same settings it resumes; called on a finished training it prints its table.
"""

from _cache import cache_dir
from _main import BEGAN, command, run, tell_report
from _wandb import show
from absl import flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "see configs/train_expert.py")
_WORKDIR = flags.DEFINE_string("workdir", None, "directory of this run; made if it is missing")
_PROFILE = flags.DEFINE_string(
    "profile", None, "directory for a jax.profiler trace of 3 iterations"
)
flags.mark_flags_as_required(["config", "workdir"])


def main() -> None:
    from jaxdistill import settings, terminal
    from jaxdistill.learn import train_settings
    from jaxdistill.report import tables
    from jaxdistill.run import training

    chosen = settings.build(train_settings.Settings, _CONFIG.value.to_dict())
    show(chosen)
    result = training.train(
        chosen,
        _WORKDIR.value,
        cache_dir=cache_dir(),
        command=command(),
        profile=_PROFILE.value,
        began=BEGAN,
    )
    tables.print_training(result)
    tell_report(_WORKDIR.value)
    terminal.say(f"experts saved in {_WORKDIR.value}/experts")


if __name__ == "__main__":
    run(main, resumes=True)
