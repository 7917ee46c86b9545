"""From the command line to frozen options, and the files that record them."""

import argparse
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from options.base_options import DEBUG, CommandOptions, attention_fractions, run_name
from options.older_flags import unknown_flags
from options.option import TRUE, Fixed, Flag, Group, SameAs, Unless, build, flags_of
from options.records import Record, read_record, read_training_record
from options.runs import check_checkpoint, check_generator, check_initial_weights, check_run_exists
from options.test_options import TestOptions
from options.train_options import TrainOptions
from util.errors import Parser, UserError
from util.files import write_text
from util.registry import Registry, is_path, label
from util.text import printable

log = logging.getLogger(__name__)

Values = dict[str, Any]
Groups = dict[str, type[Group]]
P = TypeVar("P", bound=CommandOptions)


class Configurable(Protocol):
    """A model or data set class.

    Attributes:
        Options: its own flags.
        defaults: other flags' defaults that it changes.
        fixed: other flags of which it supports only one value: the value, or `Fixed` with the reason.
    """

    Options: type[Group]
    defaults: Mapping[str, object]
    fixed: Mapping[str, object]


class ConfigurableModel(Configurable, Protocol):
    """A model class.

    Attributes:
        test_defaults: defaults that it changes for test.py only.
        architecture: flags, beyond those of every model, that test.py reads from the checkpoint's options.
        flag_rules: returns attributes of `Flag` that depend on the registered networks, by flag.
        from_record: returns the values of flags for testing, given those recorded in training and the chosen
            ones.
    """

    test_defaults: Mapping[str, object]
    architecture: tuple[str, ...]
    flag_rules: Callable[[], Mapping[str, Mapping[str, Any]]]
    from_record: Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]]


def parse(kind: type[P], argv: list[str], models: Registry[Any], datasets: Registry[Any]) -> P:
    """Return the frozen options of one command.

    Precedence: default < model < model in testing < data set < ``--config`` < checkpoint (test.py: the
    architecture) < command line.

    Args:
        kind: `TrainOptions` or `TestOptions`.
        argv: the command line without the program's name.

    Raises:
        UserError: A flag or value is unknown, or values exclude each other.
    """
    record, model, dataset = _peek(kind, argv, models, datasets)
    groups = _groups(kind, model, dataset)
    rules = model.flag_rules()
    flags = {name: replace(flag, **rules.get(name, {})) for name, flag in _flags(kind, groups).items()}
    defaults = _defaults(kind, flags, model, dataset)
    other = _other(kind)
    other_flags = _flags(other, _groups(other, model, dataset))
    named = {name for name, flag in flags.items() if _is_named(flag, argv)}
    defaults.update(_from_config(record, flags, other_flags, named, other.COMMAND))

    choices = {"model": models.names(), "dataset_mode": datasets.names()}
    fixed = list(_fixed(model, dataset))
    notes = {flag: _supported(owner, only) for owner, flag, only in fixed}
    elsewhere = dict.fromkeys(other_flags, f"{other.COMMAND}.py")
    given = _command_line(kind.COMMAND, argv, groups, flags, defaults, choices, notes, elsewhere)
    trained = Record()
    if kind is TestOptions:
        chosen = _resolve({**defaults, **given})
        trained = read_training_record(Path(chosen["checkpoints_dir"]) / run_name(chosen))
        trained.log_translated()
        trained = trained._replace(values=model.from_record(trained.values, chosen))
        defaults.update(_architecture(trained, flags, model.architecture, chosen, named))
    values = _resolve({**defaults, **given})
    if values["debug"]:
        values.update(_debug_values(flags.keys() - given.keys()))
    for name, value in values.items():
        if value is MISSING:
            raise UserError(f"--{name} is required: {flags[name].help}")
    run_name(values)  # refuses a wrong one
    values["model"] = models.canonical(values["model"])
    values["dataset_mode"] = datasets.canonical(values["dataset_mode"])
    values["attention"] = attention_fractions(values["attention"], values["crop_size"])
    for owner, flag, only in fixed:
        if flag in values and values[flag] != only.value:
            raise UserError(
                f"--{flag} {argument_text(values[flag])}: {_supported(owner, only, f'--{flag}')}"
                + (f" ({only.reason})" if only.reason else "")
            )
    _warn_without_effect(kind, flags, values, given)
    if trained.values:
        _warn_of_other_size(flags, trained, values)
    return _built(kind, groups, values, frozenset(given), _resolve(defaults))


def check_run(kind: type[CommandOptions], argv: list[str]) -> None:
    """Check that the run which the command line names exists, if the command needs one.

    This imports no model and reads no data.

    Raises:
        UserError: There is no such run; the message names the nearest one.
    """
    names = ("checkpoints_dir", "name", "suffix")
    peek = _peek_values(argv, "config", "continue_train", *names)
    config = read_record(Path(peek["config"])).values if peek.get("config") else {}
    given, flags = {**config, **peek}, flags_of(kind.groups()["run"])
    needed = kind is TestOptions or str(given.get("continue_train")).lower() in TRUE
    values = {name: flags[name].convert(given.get(name, flags[name].default)) for name in names}
    # Values of flags in the suffix are not known yet; `check_weights` checks such names.
    if needed and "{" not in values["suffix"] and not {"-h", "--help"} & {*argv}:
        check_run_exists(values["checkpoints_dir"], run_name(values))


def check_weights(options: CommandOptions) -> None:
    """Check that the run has the checkpoint which a command is to load, before data are listed.

    Raises:
        UserError: There is no such run or checkpoint, or it is of another model; the message says what is.
    """
    run, folder, testing = options.run, options.run_folder, isinstance(options, TestOptions)
    if isinstance(options, TrainOptions) and not options.saving.continue_train:
        check_initial_weights(options.saving.init_from, run.checkpoints_dir)
        return
    check_run_exists(run.checkpoints_dir, options.run_name)
    if testing or run.tag != "latest":
        flag = f"--load_iter {run.load_iter}" if run.load_iter else f"--epoch {run.epoch}"
        check_checkpoint(folder, run.tag, flag, states=not testing)
    if not testing:
        return
    trained = label(str(read_training_record(folder).values.get("model", "")))
    if run.model == "test":
        check_generator(folder, run.tag, f"G{options.model.model_suffix}", run.model)
    elif trained and run.model != trained and not is_path(run.model):
        check_generator(folder, run.tag, "G_A" if run.model == "cycle_gan" else "G", run.model)


def as_test_options(
    options: TrainOptions, models: Registry[Any], datasets: Registry[Any], changes: Values
) -> TestOptions:
    """Return the options with which test.py would test the model that is being trained.

    Flags with the same meaning in both commands keep their training values, except for `changes`.
    """
    model = models.get(options.run.model)
    same = _meant_here(TestOptions, options.values(), model)
    mode = same.get("dataset_mode") or _model_defaults(TestOptions, model)["dataset_mode"]
    dataset = datasets.get(str(mode))
    groups = _groups(TestOptions, model, dataset)
    flags = _flags(TestOptions, groups)
    defaults = _defaults(TestOptions, flags, model, dataset)
    same = {name: value for name, value in same.items() if name in flags}
    values = _resolve({**defaults, **same, **changes})
    return _built(TestOptions, groups, values, options.explicit, _resolve(defaults))


def options_text(options: CommandOptions) -> str:
    """Return every flag's value on a line of its own, as the peer prints and saves them."""
    lines = ["----------------- Options ---------------"]
    for name, value in sorted({**options.values(), "name": options.run_name}.items()):
        default = options.defaults[name]
        note = "" if value == default else f"\t[default: {None if default is MISSING else _text(default)}]"
        lines.append(f"{name:>25}: {printable(_text(value)):<30}{note}")
    return "\n".join([*lines, "----------------- End -------------------"])


def save(options: CommandOptions) -> None:
    """Write ``<command>_opt.txt``, in the peer's format, and ``<command>_opt.json``.

    They go to the run's folder in training and to the folder of the results in testing: a run may be tested
    by several processes at once, and by users who may not write to it.
    """
    folder = options.results_folder if isinstance(options, TestOptions) else options.run_folder
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{options.COMMAND}_opt.txt", f"{options_text(options)}\n")
    write_text(folder / f"{options.COMMAND}_opt.json", json.dumps(options.values(), indent=1) + "\n")


def _debug_values(names: Set[str]) -> Values:
    """Return what ``--debug`` sets among the flags `names`, and log it."""
    values = {name: value for name, value in DEBUG.items() if name in names}
    flags = " ".join(f"--{name} {argument_text(value)}" for name, value in values.items())
    log.info("--debug: %s; train.py detects anomalies in backward passes", flags)
    return values


def _text(value: object) -> str:
    """Return a value as options files and --help show it."""
    if value is MISSING:
        return "none, it is required"
    return "inf" if value is None else str(value)


def argument_text(value: object) -> str:
    """Return a value as it is written on the command line."""
    return str(value).lower() if isinstance(value, bool) else _text(value)


def _peek(
    kind: type[CommandOptions], argv: list[str], models: Registry[Any], datasets: Registry[Any]
) -> tuple[Record, type[ConfigurableModel], type[Configurable]]:
    """Return the config file's content, the model class and the data set class, before the real parsing.

    From a config file of the other command, flags that mean something else here are left out.
    """
    peek = _peek_values(argv, "config", "model", "dataset_mode")
    record = read_record(Path(peek["config"])) if peek.get("config") else Record()
    record.log_translated()
    config = record.values
    peek = {name: value for name, value in peek.items() if value}

    shared = kind.groups()
    defaults = {
        flag.name: flag.default for group in ("run", "data") for flag in flags_of(shared[group]).values()
    }
    chosen = {**defaults, **kind.DEFAULTS, **config, **peek}
    model = models.get(str(chosen["model"]))
    config = _meant_here(kind, config, model)
    mode = {**defaults, **_model_defaults(kind, model), **config, **peek}["dataset_mode"]
    return record._replace(values=config), model, datasets.get(str(mode))


def _peek_values(argv: list[str], *names: str) -> dict[str, str]:
    """Return the values of these flags on the command line, before the real parsing."""
    peeker = Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for name in names:
        peeker.add_argument(f"--{name}", nargs="?", const="true" if name == "continue_train" else "")
    values: dict[str, str] = vars(peeker.parse_known_args(argv)[0])
    return values


def _is_named(flag: Flag, argv: list[str]) -> bool:
    """Return whether the command line has the flag."""
    names = {f"--{name}" for name in (flag.name, flag.alias) if name}
    return any(word.partition("=")[0] in names for word in argv)


def _defaults(
    kind: type[CommandOptions],
    flags: Mapping[str, Flag],
    model: type[ConfigurableModel],
    dataset: type[Configurable],
) -> Values:
    defaults: Values = {name: flag.default for name, flag in flags.items()}
    fixed = {flag: only.value for _, flag, only in _fixed(model, dataset)}
    for layer in (kind.DEFAULTS, _model_defaults(kind, model), dataset.defaults, fixed):
        defaults.update({name: value for name, value in layer.items() if name in flags})
    return defaults


def _fixed(model: type[Configurable], dataset: type[Configurable]) -> Iterator[tuple[str, str, Fixed]]:
    """Yield (owner, flag, value) for every flag of which the model or the data set supports one value."""
    name, mode = (each.__module__.rpartition(".")[2] for each in (model, dataset))
    owners = {name.removesuffix("_model"): model, f"--dataset_mode {mode.removesuffix('_dataset')}": dataset}
    for owner, each in owners.items():
        for flag, value in each.fixed.items():
            yield owner, flag, value if isinstance(value, Fixed) else Fixed(value)


def _supported(owner: str, only: Fixed, flag: str = "") -> str:
    """Return which value of a flag a model or data set supports, with the flag's name if it is given."""
    if only.value == "":
        return f"{owner} supports no {flag or 'other value'}"
    return f"{owner} supports only {flag and flag + ' '}{argument_text(only.value)}"


def _built(kind: type[P], groups: Groups, values: Values, explicit: frozenset[str], defaults: Values) -> P:
    built: Values = {name: build(group, values) for name, group in groups.items()}
    return kind(**built, explicit=explicit, defaults=defaults)


def _model_defaults(kind: type[CommandOptions], model: type[ConfigurableModel]) -> Values:
    return {**model.defaults, **(model.test_defaults if kind is TestOptions else {})}


def _meant_here(
    kind: type[CommandOptions], config: Mapping[str, Any], model: type[ConfigurableModel]
) -> Mapping[str, Any]:
    """Return the config file's values; from a file of the other command, only those with the same meaning."""
    # The data set is not known yet: the model's own flags, in place of its flags, tell the files apart.
    mine, others = (_flags(each, _groups(each, model, model)) for each in (kind, _other(kind)))
    if not config.keys() & (others.keys() - mine.keys()):
        return config
    changed = (TestOptions.DEFAULTS.keys() - {"model"}) | model.test_defaults.keys()
    return {name: value for name, value in config.items() if name not in changed}


def _other(kind: type[CommandOptions]) -> type[CommandOptions]:
    return TrainOptions if kind is TestOptions else TestOptions


def _groups(kind: type[CommandOptions], model: type[Configurable], dataset: type[Configurable]) -> Groups:
    groups: Groups = {**kind.groups(), "model": model.Options, "dataset": dataset.Options}
    return {item.name: groups[item.name] for item in fields(kind) if item.name in groups}


def _flags(kind: type[CommandOptions], groups: Groups) -> dict[str, Flag]:
    flags = (flag for group in groups.values() for flag in flags_of(group).values())
    return {flag.name: flag for flag in flags if flag.phase in (None, kind.COMMAND)}


def _from_config(
    record: Record,
    flags: Mapping[str, Flag],
    other_flags: Mapping[str, Flag],
    named: Set[str],
    command: str,
) -> Values:
    """Return the config file's values, converted; from a file of the other command, only shared flags.

    Args:
        named: the flags on the command line, which override the file whatever it says.
        command: the other command.
    """
    config = record.values
    if config.keys() & (other_flags.keys() - flags.keys()):
        log.info("The --config file is from %s.py: flags with another meaning here are ignored.", command)
        config = {name: value for name, value in config.items() if name in flags}
    unknown = [name for name in config if name not in flags]
    if unknown and not record.foreign:
        elsewhere = dict.fromkeys(other_flags, f"{command}.py")
        raise UserError(f"--config: {unknown_flags([f'--{unknown[0]}'], flags, elsewhere)}")
    if unknown:
        log.info("%s: ignored, because this model has no such flags: %s", record.source, ", ".join(unknown))
    return {
        name: flags[name].convert(value, "--config")
        for name, value in config.items()
        if name in flags and name not in named
    }


def _command_line(
    command: str,
    argv: list[str],
    groups: Groups,
    flags: Mapping[str, Flag],
    defaults: Values,
    choices: Mapping[str, Sequence[str]],
    notes: Mapping[str, str],
    elsewhere: Mapping[str, str],
) -> Values:
    """Return the values given on the command line; for ``--help``, print the help and exit.

    Args:
        choices, notes: what --help says of flags, by name, beyond their own choices and rules.
        elsewhere: which command has the flags of the other command.
    """
    parser = Parser(prog=f"{command}.py", allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for group_name, group in groups.items():
        section = parser.add_argument_group(group_name, (group.__doc__ or "").split("\n")[0])
        for flag in (flags[name] for name in flags_of(group) if name in flags):
            switch = flag.type is bool
            offered, note = flag.choices or choices.get(flag.name, ()), notes.get(flag.name, "")
            section.add_argument(
                *(f"--{name}" for name in (flag.name, flag.alias) if name),
                metavar="true|false" if switch else flag.type.__name__.upper(),
                nargs="?" if switch else None,
                const="true" if switch else None,
                help=_help(flag, offered, note, defaults[flag.name]),
            )
    parsed, unknown = parser.parse_known_args(argv)
    if unknown:
        raise UserError(unknown_flags(unknown, flags, elsewhere))
    return {name: flags[name].convert(value) for name, value in vars(parsed).items()}


def _help(flag: Flag, choices: Sequence[str], note: str, default: object) -> str:
    parts = [f"one of {', '.join(choices)}"] if choices else []
    if flag.needs:
        parts.append(f"only with --{flag.needs[0]} {' or '.join(flag.needs[1])}")
    if note:
        parts.append(note)
    parts.append(f"default: {_text(default) or 'none'}")
    return f"{flag.help} ({'; '.join(parts)})".replace("%", "%%")


def _architecture(
    record: Record, flags: Mapping[str, Flag], further: Sequence[str], values: Values, named: Set[str]
) -> Values:
    """Return the recorded values of architecture flags, and of `further` flags.

    Args:
        values: those without the record.
        named: the flags on the command line, which override the record whatever it says.
    """
    result = {
        name: flag.convert(record.values[name], record.source)
        for name, flag in flags.items()
        if (flag.architecture or name in further) and name in record.values and name not in named
    }
    changed = [f"{name} {value}" for name, value in result.items() if value != values[name]]
    if changed:
        log.info("From %s: %s", record.source, ", ".join(changed))
    return result


def _resolve(values: Values) -> Values:
    """Return `values` with every default that depends on other flags replaced by its value."""
    return {name: v.value(values) if isinstance(v, SameAs | Unless) else v for name, v in values.items()}


def _warn_without_effect(
    kind: type[CommandOptions], flags: Mapping[str, Flag], values: Values, given: Values
) -> None:
    for name in given:
        needs = flags[name].needs
        if needs and str(values[needs[0]]) not in needs[1]:
            wanted = " or ".join(needs[1])
            log.warning("--%s %s has no effect without --%s %s", name, given[name], needs[0], wanted)
    chosen = [name for name in ("epoch", "load_iter") if given.get(name) not in (None, flags[name].default)]
    file = values.get("init_from")  # or a folder, in which they choose
    if kind is TrainOptions and not values["continue_train"] and (not file or Path(file).is_file()):
        for name in chosen:
            needed = "--continue_train or --init_from FOLDER"
            log.warning("--%s %s has no effect without %s", name, given[name], needed)
    elif len(chosen) == 2:
        log.warning("--epoch %s has no effect with --load_iter %d", given["epoch"], given["load_iter"])


def _warn_of_other_size(flags: Mapping[str, Flag], record: Record, values: Values) -> None:
    """Warn if images are tested at another scale, or crops of another size, than the model was trained on."""
    names = ("preprocess", "load_size", "crop_size")
    if not record.values.keys() >= {*names}:
        return
    trained = {name: flags[name].convert(record.values[name], record.source) for name in names}
    (then, scale, crop), (now, test_scale, test_crop) = _image_size(trained), _image_size(values)
    # Testing scales to the size of the crops by default.
    scales = {scale, crop} if scale and crop else {scale}
    if test_scale not in scales or (crop and test_crop and crop != test_crop):
        log.warning("Trained with %s, tested with %s: results are best at the size of training", then, now)


def _image_size(values: Values) -> tuple[str, int | None, int | None]:
    """Return the flags of the size of images, the size that they are scaled to, and that of crops."""
    preprocess = values["preprocess"]
    scale = None if preprocess in ("none", "crop") else values["load_size"]
    crop = values["crop_size"] if "crop" in preprocess else None
    flags = {"preprocess": preprocess, "load_size": scale, "crop_size": crop}
    return " ".join(f"--{name} {value}" for name, value in flags.items() if value), scale, crop
