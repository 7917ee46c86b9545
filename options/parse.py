"""From the command line to frozen options, and the files that record them."""

import argparse
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from options.base_options import DEBUG, CommandOptions, attention_fractions, run_name
from options.option import Fixed, Flag, Group, SameAs, Unless, build, flags_of
from options.test_options import TestOptions
from options.train_options import TrainOptions
from util.checking import read_json
from util.errors import Parser, UserError, did_you_mean
from util.files import read_text, write_text
from util.registry import Registry
from util.text import printable

log = logging.getLogger(__name__)

Values = dict[str, Any]
Groups = dict[str, type[Group]]
P = TypeVar("P", bound=CommandOptions)

FLAG_VALUES = {str: str | int | float | bool | None}
"""The shape of train_opt.json and test_opt.json."""


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
    """

    test_defaults: Mapping[str, object]
    architecture: tuple[str, ...]
    flag_rules: Callable[[], Mapping[str, Mapping[str, Any]]]


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
    config, model, dataset = _peek(kind, argv, models, datasets)
    groups = _groups(kind, model, dataset)
    rules = model.flag_rules()
    flags = {name: replace(flag, **rules.get(name, {})) for name, flag in _flags(kind, groups).items()}
    defaults = _defaults(kind, flags, model, dataset)
    other = _other(kind)
    other_flags = _flags(other, _groups(other, model, dataset))
    defaults.update(_from_config(config, flags, other_flags, other.COMMAND))

    choices = {"model": models.names(), "dataset_mode": datasets.names()}
    fixed = list(_fixed(model, dataset))
    notes = {flag: f"{owner} supports only {argument_text(only.value)}" for owner, flag, only in fixed}
    given = _command_line(kind.COMMAND, argv, groups, flags, defaults, choices, notes)
    if kind is TestOptions:
        defaults.update(_architecture(flags, model.architecture, _resolve({**defaults, **given})))
    values = _resolve({**defaults, **given})
    if values["debug"]:
        values.update(_debug_values(flags.keys() - given.keys()))
    for name, value in values.items():
        if value is MISSING:
            raise UserError(f"--{name} is required: {flags[name].help}")
    values["model"] = models.canonical(values["model"])
    values["dataset_mode"] = datasets.canonical(values["dataset_mode"])
    values["attention"] = attention_fractions(values["attention"], values["crop_size"])
    for owner, flag, only in fixed:
        if flag in values and values[flag] != only.value:
            raise UserError(
                f"--{flag} {argument_text(values[flag])}:"
                f" {owner} supports only --{flag} {argument_text(only.value)}"
                + (f" ({only.reason})" if only.reason else "")
            )
    _warn_without_effect(flags, values, given)
    return _built(kind, groups, values, frozenset(given), _resolve(defaults))


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


def read_opt_txt(text: str) -> dict[str, str]:
    """Return the values in an options file in the peer's format, as strings."""
    entry = re.compile(r"^ *(\w+): (.*?) *(?:\t\[default: .*\])?$", re.MULTILINE)
    return {match[1]: match[2] for match in entry.finditer(text)}


def read_changed(text: str) -> dict[str, str]:
    """Return the values in an option file of the peer's form that differ from their defaults, as texts."""
    entry = re.compile(r"^ *(\w+): (.*?) *\t\[default: .*\]$", re.MULTILINE)
    return {match[1]: match[2] for match in entry.finditer(text)}


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
) -> tuple[Values, type[ConfigurableModel], type[Configurable]]:
    """Return the config file's values, the model class and the data set class, before the real parsing.

    From a config file of the other command, flags that mean something else here are left out.
    """
    peeker = Parser(add_help=False, allow_abbrev=False)
    for name in ("config", "model", "dataset_mode"):
        peeker.add_argument(f"--{name}", nargs="?")
    peek, _ = peeker.parse_known_args(argv)
    config = _read_json(Path(peek.config)) if peek.config else {}

    shared = kind.groups()
    defaults = {
        flag.name: flag.default for group in ("run", "data") for flag in flags_of(shared[group]).values()
    }
    model = models.get(str(peek.model or config.get("model") or {**defaults, **kind.DEFAULTS}["model"]))
    config = _meant_here(kind, config, model)
    mode = {**defaults, **_model_defaults(kind, model)}["dataset_mode"]
    mode = peek.dataset_mode or config.get("dataset_mode") or mode
    return config, model, datasets.get(str(mode))


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


def _built(kind: type[P], groups: Groups, values: Values, explicit: frozenset[str], defaults: Values) -> P:
    built: Values = {name: build(group, values) for name, group in groups.items()}
    return kind(**built, explicit=explicit, defaults=defaults)


def _model_defaults(kind: type[CommandOptions], model: type[ConfigurableModel]) -> Values:
    return {**model.defaults, **(model.test_defaults if kind is TestOptions else {})}


def _meant_here(kind: type[CommandOptions], config: Values, model: type[ConfigurableModel]) -> Values:
    """Return the config file's values; from a file of the other command, only those with the same meaning."""
    # The data set is not known yet: the model's own flags, in place of its flags, tell the files apart.
    mine, others = (_flags(each, _groups(each, model, model)) for each in (kind, _other(kind)))
    if not config.keys() & (others.keys() - mine.keys()):
        return config
    changed = (TestOptions.DEFAULTS.keys() - {"model"}) | model.test_defaults.keys()
    return {name: value for name, value in config.items() if name not in changed}


def _other(kind: type[CommandOptions]) -> type[CommandOptions]:
    return TrainOptions if kind is TestOptions else TestOptions


def _read_json(path: Path) -> Values:
    values: Values = read_json(path, FLAG_VALUES)
    return values


def _groups(kind: type[CommandOptions], model: type[Configurable], dataset: type[Configurable]) -> Groups:
    groups: Groups = {**kind.groups(), "model": model.Options, "dataset": dataset.Options}
    return {item.name: groups[item.name] for item in fields(kind) if item.name in groups}


def _flags(kind: type[CommandOptions], groups: Groups) -> dict[str, Flag]:
    flags = (flag for group in groups.values() for flag in flags_of(group).values())
    return {flag.name: flag for flag in flags if flag.phase in (None, kind.COMMAND)}


def _from_config(
    config: Values, flags: Mapping[str, Flag], other_flags: Mapping[str, Flag], command: str
) -> Values:
    """Return the config file's values, converted; from a file of the other command, only shared flags."""
    if config.keys() & (other_flags.keys() - flags.keys()):
        log.info("The --config file is from %s.py: flags with another meaning here are ignored.", command)
        config = {name: value for name, value in config.items() if name in flags}
    for name in config:
        if name not in flags:
            raise UserError(f"--config: {_unknown(f'--{name}', flags)}")
    return {name: flags[name].convert(value, "--config") for name, value in config.items()}


def _command_line(
    command: str,
    argv: list[str],
    groups: Groups,
    flags: Mapping[str, Flag],
    defaults: Values,
    choices: Mapping[str, Sequence[str]],
    notes: Mapping[str, str],
) -> Values:
    """Return the values given on the command line; for ``--help``, print the help and exit.

    Args:
        choices, notes: what --help says of flags, by name, beyond their own choices and rules.
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
        raise UserError(_unknown(unknown[0], flags))
    return {name: flags[name].convert(value) for name, value in vars(parsed).items()}


def _help(flag: Flag, choices: Sequence[str], note: str, default: object) -> str:
    parts = [f"one of {', '.join(choices)}"] if choices else []
    if flag.needs:
        parts.append(f"only with --{flag.needs[0]} {' or '.join(flag.needs[1])}")
    if note:
        parts.append(note)
    parts.append(f"default: {_text(default) or 'none'}")
    return f"{flag.help} ({'; '.join(parts)})".replace("%", "%%")


def _unknown(word: str, flags: Mapping[str, Flag]) -> str:
    if not word.startswith("-"):
        return f"{word}: a value without a flag; write --flag value"
    name = word.split("=")[0]
    hint = did_you_mean(name, [f"--{flag}" for flag in flags])
    return f"{name}: there is no such flag{hint} --help lists the flags of the chosen model"


def _architecture(flags: Mapping[str, Flag], further: Sequence[str], values: Values) -> Values:
    """Return the values of architecture flags, and of `further` flags, in the checkpoint's options."""
    folder = Path(values["checkpoints_dir"]) / run_name(values)
    text, record = folder / "train_opt.txt", folder / "train_opt.json"
    if not record.exists() and not text.exists():
        return {}
    source = record if record.exists() else text
    recorded = _read_json(record) if record.exists() else read_opt_txt(read_text(text))
    result = {
        name: flag.convert(recorded[name], str(source))
        for name, flag in flags.items()
        if (flag.architecture or name in further) and name in recorded
    }
    changed = [f"{name} {value}" for name, value in result.items() if value != values[name]]
    if changed:
        log.info("From %s: %s", source, ", ".join(changed))
    return result


def _resolve(values: Values) -> Values:
    """Return `values` with every default that depends on other flags replaced by its value."""
    return {name: v.value(values) if isinstance(v, SameAs | Unless) else v for name, v in values.items()}


def _warn_without_effect(flags: Mapping[str, Flag], values: Values, given: Values) -> None:
    for name in given:
        needs = flags[name].needs
        if needs and str(values[needs[0]]) not in needs[1]:
            wanted = " or ".join(needs[1])
            log.warning("--%s %s has no effect without --%s %s", name, given[name], needs[0], wanted)
