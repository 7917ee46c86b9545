"""Train models for some steps as one of several ranks; rank 0 saves their losses and states.

torchrun --nproc_per_node=2 tests/support/rank_worker.py JOBS.json
"""

import json
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from data import DATASETS, create_loader  # noqa: E402
from models import MODELS, create_model  # noqa: E402
from options.parse import parse  # noqa: E402
from options.train_options import TrainOptions  # noqa: E402
from training.trainer import Trainer  # noqa: E402
from util import distributed  # noqa: E402

CPU = torch.device("cpu")


def train(argv: list[str], steps: int) -> dict[str, object]:
    """Return the losses of the last step and the model's state."""
    options = parse(TrainOptions, argv, MODELS, DATASETS)
    loader, model = create_loader(options, CPU), create_model(options, CPU)
    trainer = Trainer(model, options)
    epoch, losses = 1, {}
    while trainer.iteration < steps:
        for batch in loader.epoch(epoch):
            if trainer.iteration < steps:
                losses, _ = trainer.step(batch.to(CPU, model.dtype))
        epoch += 1
    return {"losses": dict(losses), "state": trainer.state_dict()}


def main() -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(CPU)
    for job in json.loads(Path(sys.argv[1]).read_text()):
        result = train(job["argv"], job["steps"])
        if distributed.rank() == 0:
            torch.save(result, job["out"])
    distributed.shutdown()


if __name__ == "__main__":
    main()
