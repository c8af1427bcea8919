"""Writes references.npz: what PyTorch computes for the parts that follow its definitions.

Run in an environment with torch 2.13.0 and numpy: `python tests/model/make_references.py`. The tests need only the
file. Trajectories are 200 steps of one small network, on single rows or on the full batch; kept are the
parameters after some of the steps, and every loss.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

STEPS = 200
KEPT = (1, 2, 10, 50, 200)
ROWS = 40
INPUTS, HIDDEN, CLASSES = 6, 7, 3

OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.05}),
    "sgd_decay": (torch.optim.SGD, {"lr": 0.05, "weight_decay": 0.02}),
    "momentum": (torch.optim.SGD, {"lr": 0.02, "momentum": 0.9, "dampening": 0.2}),
    "nesterov": (torch.optim.SGD, {"lr": 0.02, "momentum": 0.9, "nesterov": True}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.002}),
    "rmsprop_centered": (
        torch.optim.RMSprop,
        {"lr": 0.0005, "centered": True, "momentum": 0.8, "weight_decay": 0.01},
    ),
    "adam": (torch.optim.Adam, {"lr": 0.005}),
    "adam_decay": (torch.optim.Adam, {"lr": 0.005, "betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 0.05}),
    "adamw": (torch.optim.AdamW, {"lr": 0.005, "weight_decay": 0.1}),
    "adagrad": (
        torch.optim.Adagrad,
        {"lr": 0.05, "lr_decay": 0.01, "initial_accumulator_value": 0.1, "weight_decay": 0.01},
    ),
}
DEFAULTS = {
    "default_sgd": (torch.optim.SGD, {}),
    "default_rmsprop": (torch.optim.RMSprop, {}),
    "default_adam": (torch.optim.Adam, {}),
    "default_adamw": (torch.optim.AdamW, {}),
    "default_adagrad": (torch.optim.Adagrad, {}),
}
SCHEDULES = {
    "exponential": lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.98),
    "cosine": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS, eta_min=0.01),
}
ACTIVATIONS = {
    "linear": lambda z: z,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "leaky_relu": functional.leaky_relu,
    "elu": functional.elu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "softplus": functional.softplus,
}
REGRESSION_LOSSES = {
    "mean_squared": functional.mse_loss,
    "mean_absolute": functional.l1_loss,
    "huber": functional.huber_loss,
}


def network(batch_norm: bool) -> nn.Sequential:
    norm = [nn.BatchNorm1d(HIDDEN)] if batch_norm else []
    return nn.Sequential(
        nn.Linear(INPUTS, HIDDEN, bias=not batch_norm), *norm, nn.Tanh(), nn.Linear(HIDDEN, CLASSES)
    )


def flat(model: nn.Sequential) -> np.ndarray:
    return np.concatenate([values.detach().numpy().ravel() for values in model.parameters()])


def trajectory(make, options, X, y, *, full=False, batch_norm=False, clip=None, schedule=None):
    """Parameters at the KEPT steps (with 0, the start), and the loss before each step."""
    torch.manual_seed(1)
    model = network(batch_norm)
    optimizer = make(model.parameters(), **options)
    scheduler = schedule(optimizer) if schedule else None
    kept, losses = [flat(model)], []
    for step in range(STEPS):
        rows = slice(None) if full else slice(step % ROWS, step % ROWS + 1)
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(X[rows]), y[rows])
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses.append(loss.item())
        if step + 1 in KEPT:
            kept.append(flat(model))
    statistics = [part.detach().numpy() for name, part in model.named_buffers() if "running" in name]
    return np.stack(kept), np.array(losses), statistics


def value_and_gradient(function, *arguments):
    z = arguments[0].clone().requires_grad_()
    value = function(z, *arguments[1:])
    value.sum().backward()
    return np.stack([np.broadcast_to(value.detach().numpy(), z.shape), z.grad.numpy()])


def main() -> None:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(ROWS, INPUTS)).astype(np.float32)
    y = generator.integers(0, CLASSES, ROWS)
    arrays = {"X": X, "y": y}
    tensors = torch.tensor(X), torch.tensor(y)

    def keep(name, result):
        arrays[f"{name}.parameters"], arrays[f"{name}.losses"] = result[:2]
        if result[2]:
            arrays[f"{name}.norm"] = np.stack(result[2])

    for name, (make, options) in {**OPTIMIZERS, **DEFAULTS}.items():
        keep(f"rows.{name}", trajectory(make, options, *tensors))
        keep(f"full.{name}", trajectory(make, options, *tensors, full=True))
    sgd = torch.optim.SGD, {"lr": 0.1}
    keep("rows.clipped", trajectory(*sgd, *tensors, clip=0.5))
    gentle = torch.optim.SGD, {"lr": 0.02}  # at 0.1 the trajectory is unstable, and rounding decides
    keep("full.batch_norm", trajectory(*gentle, *tensors, full=True, batch_norm=True))
    for name, schedule in SCHEDULES.items():
        keep(f"rows.{name}", trajectory(*sgd, *tensors, schedule=schedule))

    z = torch.linspace(-12.0, 12.0, 97)
    arrays["grid"] = z.numpy()
    for name, function in ACTIVATIONS.items():
        arrays[f"activation.{name}"] = value_and_gradient(function, z)
    scores = torch.tensor(generator.normal(size=(12, 4)) * 2)
    targets, labels = torch.tensor(generator.normal(size=(12, 4))), torch.tensor(generator.integers(0, 4, 12))
    arrays |= {"scores": scores.numpy(), "targets": targets.numpy(), "labels": labels.numpy()}
    for name, function in REGRESSION_LOSSES.items():
        rows = lambda z, t, f=function: f(z, t, reduction="none").mean(1, keepdim=True)  # noqa: E731
        arrays[f"loss.{name}"] = value_and_gradient(rows, scores, targets)
    arrays["loss.cross_entropy"] = value_and_gradient(
        lambda z, t: functional.cross_entropy(z, t, reduction="none")[:, None], scores, labels
    )
    arrays["loss.multi_hinge"] = value_and_gradient(
        lambda z, t: functional.multi_margin_loss(z, t, reduction="none")[:, None], scores, labels
    )
    arrays["loss.binary_cross_entropy"] = value_and_gradient(
        lambda z, t: functional.binary_cross_entropy_with_logits(z, t, reduction="none"),
        scores[:, :1],
        (labels[:, None] > 1).double(),
    )
    np.savez_compressed(Path(__file__).with_name("references.npz"), **arrays)


if __name__ == "__main__":
    main()
