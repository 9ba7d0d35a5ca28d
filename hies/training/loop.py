"""The loop of fine-tuning: AdamW, linear warm-up and decay, the best epoch by the selection split."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from hies.batching import Encoded
from hies.errors import ParameterError
from hies.precision import chance_kept, computing
from hies.progress import ProgressBar
from hies.scoring.losses import Loss, inputs_of
from hies.scoring.own_loss import fitting_loss
from hies.training import Finetuning


def finetune(
    model: nn.Module,
    train: Encoded,
    validate: Callable[[nn.Module], float],
    settings: Finetuning,
    title: str,
    precision: str = "float32",
) -> list[float]:
    """Trains `model` in place and leaves it with the weights of its best epoch.

    Args:
        model: a classifier or regressor; its own loss is minimised.
        train: the training examples.
        validate: a score on the selection split, higher is better.
        settings: see `Finetuning`.
        title: what the progress bar says.
        precision: of the matrix products, see `hies.precision.computing`.

    Returns:
        The validation score of every epoch. The same seed gives the same weights on the same machine.

    Raises:
        ParameterError: the loss became infinite or no number; it names the learning rate.
    """
    train = train.padded_for(model)
    generator = np.random.default_rng(settings.seed)
    scores: list[float] = []
    best: dict[str, Tensor] = {}
    device = next(model.parameters()).device
    with chance_kept():
        torch.manual_seed(settings.seed)
        schedule = _schedule(model, len(train), settings)
        loss_of = fitting_loss(model, {name: tensor.to(device) for name, tensor in train.batch(np.arange(1)).items()})
        for epoch in range(settings.epochs):
            batches = _shuffled(train, settings.batch_size, generator)
            label = f"{title}, epoch {epoch + 1}/{settings.epochs}"
            _run_epoch(model, loss_of, train, batches, schedule, label, precision)
            scores.append(validate(model))
            if scores[-1] >= max(scores):
                best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(best)
    model.eval()
    return scores


def _run_epoch(
    model: nn.Module,
    loss_of: Loss,
    train: Encoded,
    batches: list[np.ndarray],
    schedule: LRScheduler,
    label: str,
    precision: str,
) -> None:
    device, optimizer = next(model.parameters()).device, schedule.optimizer
    model.train()
    for indices in ProgressBar(batches, label, unit="batch"):
        batch = {name: tensor.to(device) for name, tensor in train.batch(indices).items()}
        with computing(precision, device):
            outputs = model(**inputs_of(model, batch, loss_of))
        loss = loss_of(outputs, batch).mean()
        if not loss.isfinite():
            expected = f"the loss became {float(loss)} in {label}, so give a lower one"
            raise ParameterError("learning_rate", optimizer.defaults["lr"], expected)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _schedule(model: nn.Module, examples: int, settings: Finetuning) -> LRScheduler:
    """Returns the schedule of the learning rate, which holds the optimizer."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    undecayed = [p for p in model.parameters() if p.dim() <= 1]  # biases and norms
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": undecayed, "weight_decay": 0.0}],
        lr=settings.learning_rate,
    )
    steps = settings.epochs * -(-examples // settings.batch_size)
    rising = max(round(settings.warmup * steps), 1)
    return LambdaLR(optimizer, lambda step: min((step + 1) / rising, (steps - step) / max(steps - rising, 1)))


def _shuffled(train: Encoded, size: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Returns random batches of examples of similar length: sorted by length within groups of 50 random batches."""
    order = generator.permutation(len(train))
    lengths = np.array([train.length(i) for i in range(len(train))])
    group = 50 * size
    chunks = [order[start : start + group] for start in range(0, len(order), group)]
    order = np.concatenate([chunk[np.argsort(lengths[chunk], kind="stable")] for chunk in chunks])
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    return [batches[i] for i in generator.permutation(len(batches))]
