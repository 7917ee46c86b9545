"""Missing runs and checkpoints are refused first; warnings of flags at odds with the record."""

import json
from pathlib import Path

import pytest

from data import DATASETS
from models import MODELS
from options.parse import check_run, check_weights, parse, save
from options.runs import checked_name
from options.test_options import TestOptions
from options.train_options import TrainOptions
from util.errors import UserError


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three runs, one of them with a suffix, and one in a subfolder."""
    monkeypatch.chdir(tmp_path)
    for name in ("facades_pix2pix", "maps_unet_256", "group/inner"):
        folder = tmp_path / "checkpoints" / name
        folder.mkdir(parents=True)
        for tag in ("latest", "5", "10"):
            (folder / f"{tag}_net_G.pth").touch()
    (tmp_path / "empty").mkdir()
    return tmp_path / "checkpoints"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--name facade_pix2pix", "did you mean --name facades_pix2pix?"),
        ("--name Facades_Pix2pix", "did you mean --name facades_pix2pix?"),
        ("--name checkpoints/facades_pix2pix/", "did you mean --name facades_pix2pix?"),
        ("--name maps", "did you mean --name maps_unet_256?"),
        ("--name inner", "did you mean --name group/inner?"),
        ("--name zzz", "the runs there are listed above"),
        ("--name maps_unet_256 --checkpoints_dir checkpoint", "did you mean --checkpoints_dir checkpoints?"),
        ("--name maps_unet_256 --checkpoints_dir empty", "did you mean --checkpoints_dir checkpoints?"),
        ("--name zzz --checkpoints_dir checkpoint", "no such checkpoint folder; did you mean checkpoints?"),
        ("--checkpoints_dir checkpoints/maps_unet_256", "--checkpoints_dir checkpoints --name maps_unet_256"),
        ("--name=", "--name '': expected a string that is not empty"),
        ("--name ..", "leads out of"),
    ],
)
def test_the_nearest_run_is_named_before_anything_else(
    runs: Path, argv: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    # Neither the model nor the data exist, and a flag is wrong.
    others = ["--model", "none.py", "--dataroot", "none", "--zzz"]
    with pytest.raises(UserError) as caught:
        check_run(TestOptions, [*argv.split(), *others])
    assert message in str(caught.value)
    if "above" in message:
        assert caplog.messages == ["Runs in checkpoints: facades_pix2pix, group/inner, maps_unet_256"]
    check_run(TrainOptions, ["--name", "new"])
    check_run(TestOptions, ["--name", "facades_pix2pix", "--suffix="])
    if ".." not in argv and argv != "--name=":
        check_run(TrainOptions, argv.split())
        with pytest.raises(UserError):
            check_run(TrainOptions, [*argv.split(), "--continue_train"])


def parsed_test(*argv: str) -> TestOptions:
    return parse(TestOptions, ["--dataroot", "d", *argv], MODELS, DATASETS)


def test_missing_checkpoints_are_listed(runs: Path) -> None:
    argv = ["--name", "facades_pix2pix"]
    for chosen in ("latest", "10"):
        check_weights(parsed_test(*argv, "--epoch", chosen))
    with pytest.raises(UserError, match=r"--epoch 7: .* only latest, 5, 10"):
        check_weights(parsed_test(*argv, "--epoch", "7"))
    with pytest.raises(UserError, match=r"--load_iter 7: .* only latest, 5, 10"):
        check_weights(parsed_test(*argv, "--load_iter", "7"))
    with pytest.raises(UserError, match="leave --model_suffix out"):
        check_weights(parsed_test(*argv, "--model_suffix", "_A"))
    (runs / "empty").mkdir()
    with pytest.raises(UserError, match="there are no weights"):
        check_weights(parsed_test("--name", "empty"))
    with pytest.raises(UserError, match="did you mean --name maps_unet_256"):
        check_weights(parsed_test("--name", "maps", "--suffix", "{netG}", "--netG", "unet_128"))


def test_initial_weights_exist(runs: Path) -> None:
    argv = ["--dataroot", "d", "--model", "pix2pix", "--name", "new", "--init_from"]
    check_weights(parse(TrainOptions, [*argv, "checkpoints/maps_unet_256"], MODELS, DATASETS))
    for wrong in ("checkpoints/maps_unet_265", "maps_unet_256", "maps"):
        with pytest.raises(UserError, match="did you mean checkpoints/maps_unet_256"):
            check_weights(parse(TrainOptions, [*argv, wrong], MODELS, DATASETS))


def test_one_direction_of_a_cycle_gan_run(tmp_path: Path) -> None:
    argv = ["--dataroot", "d", "--model", "cycle_gan", "--checkpoints_dir", str(tmp_path), "--name", "run"]
    flags = ["--input_nc", "1", "--lambda_identity", "0", "--ngf", "8"]
    save(parse(TrainOptions, [*argv, *flags], MODELS, DATASETS))
    for name in ("G_A", "G_B", "D_A", "D_B"):
        (tmp_path / "run" / f"latest_net_{name}.pth").touch()
    run = ["--checkpoints_dir", str(tmp_path), "--name", "run"]
    for wrong in ([], ["--model_suffix", "A"], ["--model", "pix2pix"]):
        with pytest.raises(UserError, match="--model test --model_suffix _A"):
            check_weights(parsed_test(*run, *wrong))
    for suffix, channels in (("_A", (1, 3)), ("_B", (3, 1))):
        options = parsed_test(*run, "--model_suffix", suffix)
        check_weights(options)
        assert (options.network.input_nc, options.network.output_nc) == channels
        assert options.network.ngf == 8
    options = parsed_test(*run, "--model_suffix", "_B", "--input_nc", "4", "--output_nc", "5")
    assert (options.network.input_nc, options.network.output_nc) == (4, 5)
    files = "--input_range A1:full,A2:0,9 --inputs A1,A2 --output_range percentile:1 --output_bands 2,1"
    ranges = ["--value_ranges", '{"A1": {"low": 0}, "A2": {"low": 1}, "B": {"low": 2}}']
    save(parse(TrainOptions, [*argv, *flags, *files.split(), *ranges], MODELS, DATASETS))
    G_B = parsed_test(*run, "--model_suffix", "_B").files
    assert (G_B.input_range, G_B.input_bands, G_B.inputs) == ("percentile:1", "2,1", "")
    assert (G_B.output_range, G_B.output_bands, G_B.outputs) == ("A1:full,A2:0,9", "", "A1,A2")
    assert json.loads(G_B.value_ranges) == {"A1": {"low": 0}, "A2": {"low": 1}, "A": {"low": 2}}
    save(parse(TrainOptions, [*argv, *flags, "--label_nc", "5"], MODELS, DATASETS))
    G_A, G_B = (parsed_test(*run, "--model_suffix", suffix).files for suffix in ("_A", "_B"))
    assert (G_A.label_nc, G_A.holds_classes("input"), G_A.holds_classes("output")) == (5, True, False)
    assert (G_B.label_nc, G_B.holds_classes("input"), G_B.holds_classes("output")) == (5, False, True)

    both = parsed_test(*run, "--model", "cycle_gan")
    check_weights(both)
    assert (both.network.input_nc, both.network.output_nc) == (1, 3)

    data = tmp_path / "data"
    for side, suffix in (("A", "_A"), ("B", "_B")):
        (data / f"test{side}").mkdir(parents=True)
        only = parsed_test(*run, "--model", "cycle_gan", "--dataroot", str(data))
        with pytest.raises(
            UserError, match=f"--model test --model_suffix {suffix} --dataroot {data}/test{side}"
        ):
            DATASETS.get("unaligned").from_options(only)
        (data / f"test{side}").rmdir()
    (data / "1.png").touch()
    with pytest.raises(UserError, match=r"--model test --model_suffix _A \(or _B\) --dataroot"):
        DATASETS.get("unaligned").from_options(only)


@pytest.mark.parametrize("name", ["", " ", ".", "..", "/", "/tmp/run", "a/../..", "../run", "./"])
def test_a_name_stays_in_the_folder_of_checkpoints(name: str) -> None:
    with pytest.raises(UserError, match="--name"):
        checked_name(name)
    argv = ["--dataroot", "d", "--model", "pix2pix", f"--name={name}"]
    with pytest.raises(UserError, match="--name"):
        parse(TrainOptions, argv, MODELS, DATASETS)


def test_other_names_are_kept() -> None:
    for name in ("run", "group/run", "a..b", "my run", "..run", "ü"):
        assert checked_name(name) == name


@pytest.mark.parametrize(
    ("argv", "warning"),
    [
        ("--epoch 3", "--epoch 3 has no effect without --continue_train or --init_from FOLDER"),
        ("--load_iter 3", "--load_iter 3 has no effect without --continue_train or --init_from FOLDER"),
        ("--continue_train --epoch 3 --load_iter 40", "--epoch 3 has no effect with --load_iter 40"),
        (
            "--init_from pyproject.toml --epoch 3",
            "--epoch 3 has no effect without --continue_train or --init_from FOLDER",
        ),
        ("--continue_train --epoch 3", ""),
        ("--epoch latest --load_iter 0", ""),
        ("--init_from run --epoch 3", ""),
    ],
)
def test_a_checkpoint_that_is_not_loaded(argv: str, warning: str, caplog: pytest.LogCaptureFixture) -> None:
    flags = ["--dataroot", "d", "--model", "pix2pix", *argv.split()]
    parse(TrainOptions, flags, MODELS, DATASETS)
    assert [record.getMessage() for record in caplog.records] == ([warning] if warning else [])


@pytest.mark.parametrize(
    ("trained", "tested", "warns"),
    [
        ("", "", False),
        ("--load_size 143 --crop_size 128", "", True),
        ("--load_size 143 --crop_size 128", "--crop_size 128", False),
        ("--load_size 143 --crop_size 128", "--crop_size 128 --load_size 143", False),
        ("--load_size 143 --crop_size 128", "--crop_size 128 --load_size 300", True),
        ("--preprocess crop", "", True),
        ("--preprocess crop", "--preprocess none", False),
        ("--preprocess scale_width --load_size 200", "--preprocess scale_width --load_size 400", True),
        ("", "--preprocess none", True),
    ],
)
def test_testing_at_another_size_is_said(
    trained: str, tested: str, warns: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = ["--dataroot", "d", "--model", "pix2pix", "--checkpoints_dir", str(tmp_path), "--name", "run"]
    save(parse(TrainOptions, [*run, *trained.split()], MODELS, DATASETS))
    caplog.clear()
    parse(TestOptions, [*run, *tested.split()], MODELS, DATASETS)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == warns and all(line.startswith("Trained with --preprocess") for line in lines)
