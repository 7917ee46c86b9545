"""The peer's older flags, and those of its relatives, with today's: for messages and old option files.

Sources: every version of the peer's options since April 2017, and those of pix2pixHD and CUT.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from util.errors import did_you_mean
from util.text import is_number


@dataclass(frozen=True)
class Older:
    """What an older flag is today.

    Attributes:
        flag: today's flag; empty if there is none.
        values: today's values of older ones; others are kept. A switch has the values True and False.
        advice: what to do instead, if there is no flag.
        still: whether some models have the older flag today, with another meaning.
    """

    flag: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    advice: str = ""
    still: bool = False

    @property
    def is_switch(self) -> bool:
        """Whether the older flag stands alone on the command line."""
        return "True" in self.values

    def today(self, value: str | None) -> str:
        """Return what is written on the command line today for the older flag with `value`."""
        if not self.flag:
            return self.advice
        if self.is_switch:
            value = self.values["True"]
            # A switch of today needs no value.
            return f"--{self.flag}" + (f" {value}" if value != "true" else "")
        return f"--{self.flag}" + (f" {self.values.get(value, value)}" if value is not None else "")


_PIX2PIXHD = Older(advice="it belongs to pix2pixHD, which is not among the models")
_CUT = Older(advice="it belongs to CUT, which is not among the models")

OLDER: Mapping[str, Older] = {
    # junyanz/pytorch-CycleGAN-and-pix2pix, 2017 to 2020
    "niter": Older("n_epochs"),
    "niter_decay": Older("n_epochs_decay"),
    "which_model_netG": Older("netG"),
    "which_model_netD": Older("netD"),
    "which_direction": Older("direction"),
    "which_epoch": Older("epoch"),
    "fineSize": Older("crop_size"),
    "loadSize": Older("load_size"),
    "batchSize": Older("batch_size"),
    "nThreads": Older("num_threads"),
    "resize_or_crop": Older("preprocess", {"no_resize": "none"}),
    "preprocessing": Older("preprocess"),
    "no_lsgan": Older("gan_mode", {"True": "vanilla", "False": "lsgan"}),
    "how_many": Older("num_test"),
    "ntest": Older("num_test"),
    "ntrain": Older("max_dataset_size"),
    "identity": Older("lambda_identity"),
    "lambda_A": Older("lambda_L1", still=True),  # pix2pix's weight in 2017
    "align_data": Older("dataset_mode", {"True": "aligned", "False": "unaligned"}),
    "flip": Older("no_flip", {"True": "false", "False": "true"}),
    "use_dropout": Older("no_dropout", {"True": "false", "False": "true"}),
    "display_single_pane_ncols": Older("display_ncols"),
    "save_display_freq": Older("update_html_freq"),
    "save_iter_freq": Older("save_latest_freq"),
    "iter": Older("load_iter"),
    "load_by_iter": Older(advice="say --load_iter N"),
    "project": Older("wandb_project_name"),
    # torch.distributed.launch
    "local_rank": Older(advice="start the ranks with torchrun, which passes no flag"),
    # NVIDIA/pix2pixHD
    "tf_log": Older("log", {"True": "html,tensorboard", "False": "html"}),
    "fp16": Older("precision", {"True": "fp16", "False": "fp32"}),
    "load_pretrain": Older("init_from"),
    "data_type": Older(advice="say --precision fp32, bf16 or fp16"),
    **dict.fromkeys(
        (
            *("n_downsample_global", "n_blocks_global", "n_blocks_local", "n_local_enhancers"),
            *("niter_fix_global", "instance_feat", "label_feat", "feat_num", "load_features"),
            *("n_downsample_E", "nef", "n_clusters", "num_D", "lambda_feat", "no_ganFeat_loss"),
            *("no_vgg_loss", "cluster_path", "use_encoded_image", "export_onnx", "engine", "onnx"),
        ),
        _PIX2PIXHD,
    ),
    # taesungp/contrastive-unpaired-translation
    "normG": Older("norm"),
    "normD": Older("norm"),
    "evaluation_freq": Older(advice="say --val_freq N, which counts epochs"),
    "pretrained_name": Older(advice="say --init_from with the folder of that run"),
    "easy_label": Older(advice="it had no effect on training; leave it out"),
    **dict.fromkeys(
        (
            *("CUT_mode", "lambda_NCE", "nce_idt", "nce_layers", "netF", "netF_nc", "nce_T", "num_patches"),
            *("nce_includes_all_negatives_from_minibatch", "flip_equivariance", "no_antialias"),
            *("no_antialias_up", "random_scale_max", "stylegan2_G_num_downsampling"),
        ),
        _CUT,
    ),
}
"""What older flags are today, by name; consulted for flags alone that do not exist today."""

OLDER_VALUES: Mapping[str, Mapping[str, str]] = {
    "model": {"one_direction_test": "test"},
}
"""Today's values, in option files, of older ones of flags that exist today."""

NOT_FLAGS = frozenset({"isTrain"})
"""Entries of the peer's option files that were never flags."""

OTHER_DEFAULTS = {"display_id": "1", "num_test": "50", "how_many": "50", "ntest": "inf"}
"""Defaults of the peer that differ from ours: in its option files, nobody chose them."""

MAX_CANDIDATES = 4
"""Number of flags that a message lists for an abbreviation."""


def unknown_flags(words: Sequence[str], flags: Iterable[str], elsewhere: Mapping[str, str]) -> str:
    """Return the message about the words of a command line that no flag takes.

    Args:
        words: unknown flags, each perhaps followed by its values.
        flags: the flags of this command.
        elsewhere: where the flags of other commands are, by name.
    """
    known = list(flags)
    if not words[0].startswith("-"):
        return f"{words[0]}: a value without a flag; write --flag value"
    older = [
        (word, OLDER[older_name], value)
        for word, name, value in _with_values(words)
        if (older_name := _in_table(name, known)) is not None
    ]
    if not older:
        name = words[0].split("=")[0]
        return f"{name}: there is no such flag{_hint(name.lstrip('-'), known, elsewhere)}"
    renamed = [entry for entry in older if entry[1].flag]
    if not renamed:
        word, entry, _ = older[0]
        return f"{word}: there is no such flag; {entry.advice}"
    written = " ".join(_as_written(*entry) for entry in renamed)
    today = " ".join(dict.fromkeys(entry.today(value) for _, entry, value in renamed))
    absent = [
        f"; --{flag} is a flag of {elsewhere[flag]}" if flag in elsewhere else f"; this model has no --{flag}"
        for flag in dict.fromkeys(entry.flag for _, entry, _ in renamed)
        if flag not in known
    ]
    they = "is no such flag; today it is" if len(renamed) == 1 else "are no such flags; today they are"
    return f"{written}: there {they} {today}{''.join(absent)}"


def translate(values: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the values of an option file by today's names, and the older names that were translated."""
    result: dict[str, str] = {}
    older: list[str] = []
    for name, value in values.items():
        entry = OLDER.get(name)
        if entry is None or entry.still:
            result[name] = OLDER_VALUES.get(name, {}).get(value, value)
        elif entry.flag and entry.flag not in values:
            result[entry.flag] = entry.values.get(value, value)
            older.append(name)
    if gpus := re.fullmatch(r"\[([\d, ]*)\]", result.get("gpu_ids", "")):
        result["gpu_ids"] = gpus[1].replace(" ", "") or "-1"
    return result, older


def _with_values(words: Sequence[str]) -> list[tuple[str, str, str | None]]:
    """Return each unknown flag as (written, name, value); value None if there is none."""
    result: list[tuple[str, str, str | None]] = []
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("-") and not is_number(word):
            written, equals, value = word.partition("=")
            has_value = not following.startswith("-") or is_number(following)
            given = value if equals else following if has_value else None
            result.append((written, written.lstrip("-"), given))
    return result


def _as_written(word: str, entry: Older, value: str | None) -> str:
    return word if value is None or entry.is_switch else f"{word} {value}"


def _in_table(name: str, flags: Sequence[str]) -> str | None:
    """Return the older flag with this name, whatever its case and underscores are; None if there is none."""
    if name in OLDER and (OLDER[name].flag in flags or not OLDER[name].still):
        return name
    plain = _plain(name)
    if any(_plain(flag) == plain for flag in flags):
        return None
    return next((older for older in OLDER if _plain(older) == plain and not OLDER[older].still), None)


def _hint(name: str, flags: Sequence[str], elsewhere: Mapping[str, str]) -> str:
    """Return what an unknown flag, which may be an abbreviation, may have meant, for the end of a message."""
    if name in elsewhere:
        return f": it is a flag of {elsewhere[name]}"
    help_advice = " --help lists the flags of the chosen model"
    same = [flag for flag in flags if _plain(flag) == _plain(name)]
    candidates = same or _abbreviated(name, flags)
    if len(candidates) > 1:
        listed = ", ".join(f"--{flag}" for flag in candidates[:MAX_CANDIDATES])
        more = ", ..." if len(candidates) > MAX_CANDIDATES else ""
        return f", and flags are not abbreviated: it may be {listed}{more}.{help_advice}"
    if len(candidates) == 1:
        return f"; did you mean --{candidates[0]}?{help_advice}"
    return f"{did_you_mean(f'--{name}', [f'--{flag}' for flag in flags])}{help_advice}"


def _abbreviated(name: str, flags: Sequence[str]) -> list[str]:
    """Return the flags of today whose names, today's or older ones, begin with `name`."""
    today = [flag for flag in flags if flag.startswith(name)]
    older = [entry.flag for older, entry in OLDER.items() if older.startswith(name) and entry.flag in flags]
    return list(dict.fromkeys([*today, *older])) if name else []


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
