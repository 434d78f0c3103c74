"""What every launch program does around its `main`: flags in, one clear line out on bad input.

Importing this starts the program anew once, with large pages for large buffers: see `_allocate`.
Programs import what is heavy in their functions: flags are read, and what is begun said, before.
"""

from __future__ import annotations

import copy
import math
import os
import pathlib
import shlex
import sys
import time
import traceback
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging

BEGAN = time.monotonic()  # since when the wall time of a run counts
# Config files build on each other; a program's own folder is all Python adds by itself.
sys.path.insert(1, str(pathlib.Path(__file__).parents[1]))


def _allocate() -> None:
    """Has glibc keep large buffers, in large pages, instead of giving them back after every use.

    Faulting their pages in again costs an update about a tenth of its time on CPU. glibc reads this
    at start alone, hence the new start, before anything heavy is imported. `GLIBC_TUNABLES`, set to
    anything, is left as it is: `GLIBC_TUNABLES= python launch/...` switches this off.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = ":".join(
            f"glibc.malloc.{name}"
            for name in ("hugetlb=1", "mmap_threshold=4294967296", "trim_threshold=8589934592")
        )
        os.execv(sys.executable, sys.orig_argv)


_allocate()

from jaxdistill import preemption, shipped, text  # noqa: E402 (found by the path above, and light)

LARGEST_SEED = 2**31 - 1  # seeds are 32 bits wide in emulators

_IMPORT = flags.DEFINE_multi_string(
    "import",
    None,
    "Python file to import first: tasks, conventions or losses of your own; may be given again",
)


def run(main: Callable[[], object], *, resumes: bool = False) -> None:
    """Parses flags and calls `main`; exits 2 with one line on stderr on an error of the user's.

    Args:
      resumes: the program goes on where it was interrupted, and ends in good order on SIGTERM (exit
        0) and on Ctrl-C (exit 130); others write what they make, whole, as the last thing they do.
    """
    logging.set_verbosity(logging.ERROR)
    again = _GOES_ON if resumes else "begins again"

    def guarded(arguments: list[str]) -> None:
        try:
            if len(arguments) > 1:
                raise ValueError(f"unexpected argument {arguments[1]!r}; every input is a --flag")
            for file in _IMPORT.value or ():
                _import(pathlib.Path(file))
            if not _begins_with_others():
                preemption.stop_if_asked()  # while JAX was loaded
            main()
        except (ValueError, OSError) as error:
            _fail(str(error) + _own_place(error))
        except KeyboardInterrupt as stopped:
            if not _one_of_several():
                raise
            print(f"interrupted; the same command {str(stopped) or again}", file=sys.stderr)
            _leave(130)
        except preemption.Preempted as stopped:
            then = str(stopped) or _GOES_ON
            if preemption.by_hand():
                _interrupted(then)
            why = "ended by SIGTERM" if preemption.asked() else "ended with another process"
            print(f"{why}; the same command {then}", file=sys.stderr)
        except Exception as error:
            if _out_of_memory(error):
                _fail(_too_large(error))
            if not _one_of_several():
                raise
            traceback.print_exc()
            _leave(1)

    def parse(arguments: list[str]) -> list[str]:
        arguments = _with_config_found([_with_home_found(x) for x in arguments])
        if "jax" not in sys.modules and _in_order(arguments):
            _announce(arguments)
        try:
            rest = flags.FLAGS(arguments)
        except flags.Error as error:
            # What a config file refuses comes with its whole traceback.
            *_, last = str(error).strip().splitlines()
            refused = last.removeprefix("ValueError: ") if "Traceback" in str(error) else last
            if refused == last:
                refused = _broken_config(arguments) or _no_config(arguments)
            _fail(refused or f"{error} (--help lists the flags)")
        except Exception as error:
            if broken := _broken_config(arguments):
                _fail(broken)
            if not isinstance(error, (AttributeError, IndexError, KeyError, TypeError)):
                raise
            told = str(error.args[0] if error.args else error).strip("'\"")  # of a ConfigDict
            _fail(_unknown_field(arguments) or f"a --config.NAME is no setting ({told})")
        for name, value in flags.FLAGS.flag_values_dict().items():
            if isinstance(value, float) and not math.isfinite(value):  # which is within all bounds
                _fail(f"--{name} is {value}, expected a finite number")
        return rest

    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("_"):  # beside this one: --help lists what programs share, too
            for flag in defined:
                flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    if resumes:
        preemption.watch()  # from before a config file is read, which loads JAX
    try:
        app.run(guarded, flags_parser=parse)
    except KeyboardInterrupt as stopped:
        _interrupted(str(stopped) or again)


_GOES_ON = "goes on where it stopped"


def _interrupted(then: str) -> NoReturn:
    print(f"interrupted; the same command {then}", file=sys.stderr)
    sys.exit(130)


def _import(file: pathlib.Path) -> None:
    if not file.is_file():
        raise ValueError(f"--import={file} is no file; expected one of Python")
    path = file.absolute()
    standing = sys.modules.get(path.stem)
    if getattr(standing, "__file__", None) == str(path):
        return  # by one that was imported before
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # as Python does for a program that it is given
    module = types.ModuleType(path.stem if standing is None else f"--import={file}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except Exception as error:
        kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
        raise ValueError(f"--import={file}: {kind}{error}") from error


def _own_place(error: BaseException) -> str:
    """Where in the user's own files an error was raised; nothing where it did not come that way."""
    folders = {pathlib.Path(file).absolute().parent for file in _IMPORT.value or ()}
    if error.__cause__ and (place := _own_place(error.__cause__)):
        return place
    return _place(error, folders)


def _place(error: BaseException, folders: Collection[pathlib.Path]) -> str:
    """Where in the files of some folders an error was raised; nothing where it was elsewhere."""
    for frame, line in reversed([*traceback.walk_tb(error.__traceback__)]):
        code = frame.f_code
        file = pathlib.Path(code.co_filename).absolute()
        if file.parent in folders and file.is_file():  # Python's own are none
            function = "" if code.co_name == "<module>" else f", {code.co_qualname}"
            return f" (in {file}:{line}{function})"
    return ""


def _out_of_memory(error: Exception) -> bool:
    """Whether a device, or this machine, could not hold what was asked of it."""
    of_jax = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
    return isinstance(error, MemoryError) or (of_jax and "RESOURCE_EXHAUSTED" in str(error))


def _too_large(error: Exception) -> str:
    """The line for what could not be held, with the settings that decide how much it is."""
    told = " ".join(str(error).split())[:200] or type(error).__name__
    known = dict(_fields(flags.FLAGS["config"].value)) if "config" in flags.FLAGS else {}
    names = [f"--config.{name}" for name in known if name.rpartition(".")[2] in _SIZES]
    less = f"make {', '.join(names)} smaller, or " if names else ""
    return f"out of memory ({told}); {less}take a device that holds more, or a free one"


_SIZES = ("batch_per_game", "num_envs", "replay_size", "window_steps")


def command() -> str:
    """How this program was begun, as one would type it again."""
    program, *rest = sys.argv
    began = program if program.startswith("jaxdistill ") else f"python {shlex.quote(program)}"
    return " ".join([began, shlex.join(rest)]).rstrip()


def tell_report(workdir: str | os.PathLike[str]) -> None:
    """Says where the report of a finished run is; of one that was lost, how it is had again."""
    from jaxdistill import terminal
    from jaxdistill.run import distill, kinds, training

    path = pathlib.Path(workdir, "report.html")
    if path.is_file():
        terminal.say(f"report in {workdir}/report.html")
        return
    gone = (distill if kinds.has_student(workdir) else training).missing_path(workdir)
    first = "" if gone is None else f"put back {gone}, which is not there either, then "
    result = path.with_name("result.json")
    terminal.say(
        f"note: {path} is not there; {first}remove {result}, and the same command writes both"
    )


def _config(name: str) -> str:
    found = shipped.config(name)
    if not pathlib.Path(found.partition(":")[0]).is_file():
        known = sorted(path.stem for path in (shipped.ROOT / "configs").glob("[!_]*.py"))
        _fail(
            f"there is no config file {name.partition(':')[0]!r}; expected a Python file, or one "
            f"that comes with the package: {', '.join(known)}"
        )
    return found


def _with_config_found(arguments: Sequence[str]) -> list[str]:
    """The arguments, with the file of `--config` where it is; see `shipped.config`."""
    found, before = [], ""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if equals and name.lstrip("-") == "config" and name.startswith("-"):
            argument = f"{name}={_config(value)}"
        elif before in ("-config", "--config"):
            argument = _config(argument)
        found.append(argument)
        before = argument
    return found


def _with_home_found(argument: str) -> str:
    """`--NAME=~/FILE` as a path: shells leave a `~` behind the `=` as it is."""
    name, equals, value = argument.partition("=")
    known = equals and name.startswith("-") and value.startswith("~")
    return f"{name}={os.path.expanduser(value)}" if known else argument


def _given_config(arguments: Sequence[str]) -> str | None:
    """The value of the last `--config`; None where there is none."""
    found = None
    for argument, following in zip(arguments, [*arguments[1:], None], strict=True):
        name, equals, value = argument.partition("=")
        if name in ("-config", "--config"):
            found = value if equals else following
    return found


def _no_config(arguments: Sequence[str]) -> str | None:
    """The line for a `--config.NAME` without a `--config`; None where that is not what is wrong."""
    known = "config" in flags.FLAGS and _given_config(arguments) is None
    if not known or not any(x.lstrip("-").startswith(("config.", "noconfig.")) for x in arguments):
        return None
    return "--config=FILE is missing, whose fields --config.NAME changes; give one, see configs/"


def _broken_config(arguments: Sequence[str]) -> str | None:
    """The line for what is raised where a config file is read; None where it can be read."""
    given = _given_config(arguments)
    if "config" not in flags.FLAGS or given is None:
        return None
    file = pathlib.Path(given.partition(":")[0])
    try:
        flags.FLAGS["config"].parser.parse(given)
    except Exception as error:
        if isinstance(error, (TypeError, ValueError)):  # ml_collections raises these anew
            error = error.__context__ or error
        place = _place(error, (file.absolute().parent,))
        return f"--config={file}: {type(error).__name__}: {error}{place}"
    return None


def _unknown_field(arguments: Sequence[str]) -> str | None:
    """The line for the first `--config.NAME` that is no field of the config; None where all are."""
    known = dict(_fields(flags.FLAGS["config"].parser.parse(_given_config(arguments))))
    for flag, _, _ in (x.lstrip("-").partition("=") for x in arguments):
        name = flag.removeprefix("no").removeprefix("config.")
        if name == flag or "[" in name or name in known:
            continue
        return f"--{flag} is no setting; {text.did_you_mean(name, known, '--config.')}"
    return None


def _fields(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All fields of a config by their dotted names, and those that hold others."""
    for name in config:
        value = config[name]
        yield f"{prefix}{name}", value
        if isinstance(value, Mapping) or hasattr(value, "items"):
            yield from _fields(value, f"{prefix}{name}.")


def _in_order(arguments: Sequence[str]) -> bool:
    """Whether flags can be read, as far as that is known before a config file is, which is slow."""
    given = [x for x in arguments if x.lstrip("-").startswith("config")]
    try:
        copy.deepcopy(flags.FLAGS)([x for x in arguments if x not in given])
    except flags.Error as error:
        return bool(given) and all("--config" in line for line in str(error).splitlines())
    return True


def _announce(arguments: Sequence[str]) -> None:
    """The first line: what is begun. Importing JAX and all that stands on it takes seconds."""
    told = []
    for i, argument in enumerate(arguments):
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name in _TOLD:
            told.append(f"{name} {value if equals else ''.join(arguments[i + 1 : i + 2])}")
    begun = f"{', '.join(told)}; loading JAX" if told else "loading JAX"
    program = pathlib.Path(arguments[0]).stem
    print(text.printable(f"{program}: {begun}"), file=sys.stderr, flush=True)


_TOLD = ("config", "method", "expert", "source", "workdir", "out")


def only_with(what: str, *names: str) -> None:
    """Refuses the flags `names`, which mean nothing without `what`, instead of ignoring them."""
    for name in names:
        if flags.FLAGS[name].present:
            raise ValueError(f"--{name} goes with {what}")


def check_new_file(flag: str, path: pathlib.Path) -> None:
    """Refuses a file that could not be written in the end, before anything is played for it."""
    folder = path.absolute().parent
    if path.exists():
        raise ValueError(f"--{flag}={path} exists; choose another file")
    if not folder.is_dir():
        raise ValueError(f"--{flag}={path}: there is no folder {folder}; make it, or name another")
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        raise ValueError(f"--{flag}={path}: nothing may be written in {folder}; name another")


def _fail(message: str) -> None:
    print("error: " + text.printable(" ".join(message.split())), file=sys.stderr)
    if _one_of_several():
        _leave(2)
    sys.exit(2)


def _begins_with_others() -> bool:
    """Whether several processes are to become one run: they wait for each other to begin."""
    return "coordinator" in flags.FLAGS and flags.FLAGS.coordinator is not None


def _one_of_several() -> bool:
    """Whether this is one of several processes of a run."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1


def _leave(code: int) -> NoReturn:
    """Ends one of several processes at once, so that the others end too.

    At its usual end it would wait for them, who wait for it, for five minutes. The others do not
    outlive the first one, and may have the same to say: it gives them a second.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if sys.modules["jax"].process_index() == 0:
        time.sleep(1)
    os._exit(code)
