"""Every flag of a model does something, or says that it does not."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from models import MODELS
from options.option import flags_of
from options.train_options import AdversarialOptions
from tests.support.flags import Comparison
from tests.support.models import TRAINED

IGNORING = """
from dataclasses import dataclass
from models.colorization_model import ColorizationModel, ColorizationOptions
from options.option import option
from util.batch import Step
from util.color import to_L_ab

@dataclass(frozen=True)
class IgnoringOptions(ColorizationOptions):
    \"\"\"Flags of the model.\"\"\"
    forgotten: float = option(1.0, "a flag that nothing reads")
    note: str = option("", "a text that nothing reads")
    verbose_log: bool = option(False, "more lines in the log", cosmetic=True)

class IgnoringModel(ColorizationModel):
    Options = IgnoringOptions
    fixed = {**ColorizationModel.fixed, "lambda_GAN": 1.0}

    def train_step(self, batch, update):
        L, ab = to_L_ab(batch.A)
        loss = self.options.lambda_L1 * (self.nets["G"](L) - ab).abs().mean()
        update("G", loss)
        return Step({"G_L1": loss}, {})
"""


Compare = Callable[[str], Comparison]


@pytest.fixture(scope="module")
def compare(data: dict[str, Path]) -> Compare:
    """Return the runs of a model with different flags, which the tests share."""
    return cache(lambda name: Comparison(name, data))


@pytest.mark.parametrize("name", MODELS.names())
def test_every_flag_of_a_model_has_an_effect(name: str, compare: Compare) -> None:
    assert compare(name).flags_without_effect() == []


@pytest.mark.parametrize("name", MODELS.names())
def test_every_flag_of_networks_is_read_or_fixed(name: str, compare: Compare) -> None:
    assert compare(name).unread_network_flags() == set()


@pytest.mark.parametrize("name", TRAINED)
def test_adversarial_models_use_the_chosen_objective(name: str, compare: Compare) -> None:
    flags, comparison = flags_of(AdversarialOptions), compare(name)
    if any(net.startswith("D") for net in comparison.weights()):
        for flag in {"gan_mode", "pool_size"} - MODELS.get(name).fixed.keys():
            assert comparison.changes(flags[flag], ()), flag


def test_flags_that_a_subclass_ignores_are_found(data: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "ignoring_model.py"
    path.write_text(IGNORING)
    assert Comparison(str(path), data).flags_without_effect() == [
        "lambda_perceptual",
        "rebalance",
        "forgotten",
        "note",
    ]
