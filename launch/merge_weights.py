"""Merges the weights of experts of one shape: `--config=... --method=NAME --workdir=DIR`

Nothing is learnt: `mean`, `task_arithmetic`, `fisher`, `htcl`, `taylor_one_shot`,
`taylor_iterative` or `aligned_mean` makes one network of theirs, which is measured as a student is,
beside random play and the experts. See `configs/merge_weights.py`. Any field of the config can be
set by flag, as `--config.merge.scale=0.4`.

Called again with the same settings it resumes; called on a finished merge it prints its table.
"""

from _cache import cache_dir
from _main import BEGAN, run
from absl import flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "see configs/merge_weights.py")
_METHOD = flags.DEFINE_string("method", None, "how, see above")
_WORKDIR = flags.DEFINE_string("workdir", None, "directory of this merge; made if it is missing")
flags.mark_flags_as_required(["config", "method", "workdir"])


def main() -> None:
    from jaxdistill import settings
    from jaxdistill.learn import weight_merging
    from jaxdistill.report import tables
    from jaxdistill.run import merge_settings, merge_weights

    if _METHOD.value not in weight_merging.METHODS:
        raise ValueError(
            f"--method is {_METHOD.value!r}, expected one of {', '.join(weight_merging.METHODS)}"
        )
    fields = _CONFIG.value.to_dict() | {"method": _METHOD.value}
    chosen = settings.build(merge_settings.Settings, fields)
    result = merge_weights.merge(chosen, _WORKDIR.value, cache_dir=cache_dir(), began=BEGAN)
    tables.print_result(result)


if __name__ == "__main__":
    run(main, resumes=True)
