"""Trains an expert: `--config=configs/train_expert.py --config.games=pong --workdir=DIR`.

Called again with the same settings it resumes.
"""

from _main import run
from absl import flags
from ml_collections import config_flags

from jaxdistill import metrics, settings
from jaxdistill.learn import qlearning

_CONFIG = config_flags.DEFINE_config_file("config", None, "see configs/train_expert.py")
_WORKDIR = flags.DEFINE_string("workdir", None, "directory of this run; made if it is missing")
_PROFILE = flags.DEFINE_string(
    "profile", None, "directory for a jax.profiler trace of 3 iterations"
)
flags.mark_flags_as_required(["config", "workdir"])


def main() -> None:
    chosen = settings.build(qlearning.Settings, _CONFIG.value.to_dict())
    best = qlearning.train(chosen, _WORKDIR.value, profile=_PROFILE.value)
    metrics.table(
        f"the best network, after {best['step']} steps per game",
        ("game", "score"),
        list(best["scores"].items()),
    )
    metrics.say(f"experts saved in {_WORKDIR.value}/experts")


if __name__ == "__main__":
    run(main, resumes=True)
