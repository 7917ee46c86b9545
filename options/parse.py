"""From the command line to frozen options, once; and the files that record them."""

import argparse
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar, get_type_hints

from options.base_options import CommandOptions, attention_fractions, run_name
from options.option import Flag, Group, SameAs, Unless, build, flags_of
from options.test_options import TestOptions
from options.train_options import TrainOptions
from util.errors import Parser, UserError, did_you_mean
from util.files import write_text
from util.registry import Registry

log = logging.getLogger(__name__)

Values = dict[str, Any]
Groups = dict[str, type[Group]]
P = TypeVar("P", bound=CommandOptions)


class Configurable(Protocol):
    """A model or data set: a class with flags of its own and changed defaults for others."""

    Options: type[Group]
    defaults: Mapping[str, object]


class ConfigurableModel(Configurable, Protocol):
    """A model: defaults that only test.py changes, and further flags that decide its architecture."""

    test_defaults: Mapping[str, object]
    architecture: tuple[str, ...]


def parse(kind: type[P], argv: list[str], models: Registry[Any], datasets: Registry[Any]) -> P:
    """Return the frozen options of one command.

    Precedence: default < model < model in testing < data set < ``--config`` < checkpoint (test: the
    architecture) < command line.

    Args:
        kind: `TrainOptions` or `TestOptions`.
        argv: the command line without the program's name.

    Raises:
        UserError: an unknown flag or value, or values that do not go together.
    """
    config, model, dataset = _peek(kind, argv, models, datasets)
    groups = _groups(kind, model, dataset)
    flags = _flags(kind, groups)
    defaults = _defaults(kind, flags, model, dataset)
    other = _other(kind)
    others = _flags(other, _groups(other, model, dataset))
    defaults.update(_from_config(config, flags, others, other.COMMAND))

    offered = {"model": models.names(), "dataset_mode": datasets.names()}
    given = _command_line(kind.COMMAND, argv, groups, flags, defaults, offered)
    if kind is TestOptions:
        defaults.update(_architecture(flags, model.architecture, _resolve({**defaults, **given})))
    values = _resolve({**defaults, **given})
    for name, value in values.items():
        if value is MISSING:
            raise UserError(f"--{name} is required: {flags[name].help}")
    values["attention"] = attention_fractions(values["attention"], values["crop_size"])
    _warn_without_effect(flags, values, given)
    return _built(kind, groups, values, frozenset(given), _resolve(defaults))


def as_test_options(
    options: TrainOptions, models: Registry[Any], datasets: Registry[Any], changes: Values
) -> TestOptions:
    """Return the options with which test.py would measure the model that is being trained.

    They are the training's where both commands mean the same by a flag, except for `changes`.
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


def save(options: CommandOptions) -> None:
    """Write ``<command>_opt.txt``, in the peer's form, and ``<command>_opt.json`` into the run's folder."""
    folder, values = options.run_folder, options.values()
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["----------------- Options ---------------"]
    for name, value in sorted({**values, "name": options.run_name}.items()):
        default = options.defaults[name]
        note = "" if value == default else f"\t[default: {None if default is MISSING else _text(default)}]"
        lines.append(f"{name:>25}: {_text(value):<30}{note}")
    lines.append("----------------- End -------------------\n")
    write_text(folder / f"{options.COMMAND}_opt.txt", "\n".join(lines))
    write_text(folder / f"{options.COMMAND}_opt.json", json.dumps(values, indent=1) + "\n")


def read_opt_txt(text: str) -> dict[str, str]:
    """Return the values in an option file of the peer's form, as texts."""
    entry = re.compile(r"^ *(\w+): (.*?) *(?:\t\[default: .*\])?$", re.MULTILINE)
    return {match[1]: match[2] for match in entry.finditer(text)}


def _text(value: object) -> str:
    if value is MISSING:
        return "none, it is required"
    return "inf" if value is None else str(value)


def _peek(
    kind: type[CommandOptions], argv: list[str], models: Registry[Any], datasets: Registry[Any]
) -> tuple[Values, type[ConfigurableModel], type[Configurable]]:
    """Return the config file's values, the model class and the data set class, before the real parsing.

    Of a config file by the other command, what has another meaning here is left out.
    """
    peeker = Parser(add_help=False, allow_abbrev=False)
    for name in ("config", "model", "dataset_mode"):
        peeker.add_argument(f"--{name}", nargs="?")
    peek, _ = peeker.parse_known_args(argv)
    config = _read_json(Path(peek.config)) if peek.config else {}

    hints = get_type_hints(kind)
    defaults = {
        flag.name: flag.default for group in ("run", "data") for flag in flags_of(hints[group]).values()
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
    for layer in (kind.DEFAULTS, _model_defaults(kind, model), dataset.defaults):
        defaults.update({name: value for name, value in layer.items() if name in flags})
    return defaults


def _built(kind: type[P], groups: Groups, values: Values, explicit: frozenset[str], defaults: Values) -> P:
    built: Values = {name: build(group, values) for name, group in groups.items()}
    return kind(**built, explicit=explicit, defaults=defaults)


def _model_defaults(kind: type[CommandOptions], model: type[ConfigurableModel]) -> Values:
    return {**model.defaults, **(model.test_defaults if kind is TestOptions else {})}


def _meant_here(kind: type[CommandOptions], config: Values, model: type[ConfigurableModel]) -> Values:
    """Return the config file's values; of a file by the other command, those with one meaning."""
    # Which data set it is may be among the rest: the model's flags in its place tell enough.
    mine, others = (_flags(each, _groups(each, model, model)) for each in (kind, _other(kind)))
    if not config.keys() & (others.keys() - mine.keys()):
        return config
    changed = (TestOptions.DEFAULTS.keys() - {"model"}) | model.test_defaults.keys()
    return {name: value for name, value in config.items() if name not in changed}


def _other(kind: type[CommandOptions]) -> type[CommandOptions]:
    return TrainOptions if kind is TestOptions else TestOptions


def _read_json(path: Path) -> Values:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected an object with flags and their values")
    return values


def _groups(kind: type[CommandOptions], model: type[Configurable], dataset: type[Configurable]) -> Groups:
    hints = get_type_hints(kind)
    own: Groups = {"model": model.Options, "dataset": dataset.Options}
    names = [item.name for item in fields(kind) if item.name not in ("explicit", "defaults")]
    return {name: own.get(name) or hints[name] for name in names}


def _flags(kind: type[CommandOptions], groups: Groups) -> dict[str, Flag]:
    every = (flag for group in groups.values() for flag in flags_of(group).values())
    return {flag.name: flag for flag in every if flag.phase in (None, kind.COMMAND)}


def _from_config(
    config: Values, flags: Mapping[str, Flag], others: Mapping[str, Flag], command: str
) -> Values:
    """Return the config file's values, converted; of a file by the other command, those that both have."""
    if config.keys() & (others.keys() - flags.keys()):
        log.info("The --config file is %s.py's: what has another meaning here is left out.", command)
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
    offered: Mapping[str, Sequence[str]],
) -> Values:
    """Return the values that the command line gives; print the help and exit if it asks for it."""
    parser = Parser(prog=f"{command}.py", allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for group_name, group in groups.items():
        section = parser.add_argument_group(group_name, (group.__doc__ or "").split("\n")[0])
        for flag in (flags[name] for name in flags_of(group) if name in flags):
            switch = flag.type is bool
            section.add_argument(
                f"--{flag.name}",
                metavar="true|false" if switch else flag.type.__name__.upper(),
                nargs="?" if switch else None,
                const="true" if switch else None,
                help=_help(flag, flag.choices or offered.get(flag.name, ()), defaults[flag.name]),
            )
    found, unknown = parser.parse_known_args(argv)
    if unknown:
        raise UserError(_unknown(unknown[0], flags))
    return {name: flags[name].convert(value) for name, value in vars(found).items()}


def _help(flag: Flag, choices: Sequence[str], default: object) -> str:
    parts = [f"one of {', '.join(choices)}"] if choices else []
    if flag.needs:
        parts.append(f"only with --{flag.needs[0]} {' or '.join(flag.needs[1])}")
    parts.append(f"default: {_text(default) or 'none'}")
    return f"{flag.help} ({'; '.join(parts)})".replace("%", "%%")


def _unknown(word: str, flags: Mapping[str, Flag]) -> str:
    if not word.startswith("-"):
        return f"{word}: a value without a flag; write --flag value"
    name = word.split("=")[0]
    hint = did_you_mean(name, [f"--{flag}" for flag in flags])
    return f"{name}: there is no such flag{hint} --help lists the flags of the chosen model"


def _architecture(flags: Mapping[str, Flag], further: Sequence[str], values: Values) -> Values:
    """Return what the checkpoint's options say of the architecture, and of `further` flags."""
    folder = Path(values["checkpoints_dir"]) / run_name(values)
    text, record = folder / "train_opt.txt", folder / "train_opt.json"
    if not record.exists() and not text.exists():
        return {}
    source = record if record.exists() else text
    found = _read_json(record) if record.exists() else read_opt_txt(text.read_text())
    result = {
        name: flag.convert(found[name], str(source))
        for name, flag in flags.items()
        if (flag.architecture or name in further) and name in found
    }
    changed = [f"{name} {value}" for name, value in result.items() if value != values[name]]
    if changed:
        log.info("Taken from %s: %s", source, ", ".join(changed))
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
