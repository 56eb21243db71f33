"""Writes adamw.json: ten steps of torch.optim.AdamW on a few parameters, with clipping and decay.

Run: python tests/golden/adamw.py   (needs torch)
"""

import json
import pathlib

import torch

torch.manual_seed(17)
size, steps, maximum_norm = 70, 10, 1.5
hyper = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
weights = torch.nn.Parameter(torch.randn(size))
golden = {
    "torch": torch.__version__,
    "learning_rate": hyper["lr"],
    "beta1": hyper["betas"][0],
    "beta2": hyper["betas"][1],
    "epsilon": hyper["eps"],
    "weight_decay": hyper["weight_decay"],
    "maximum_norm": maximum_norm,
    "start": weights.tolist(),
    "gradients": [],
    "norms": [],
    "weights": [],
}
optimizer = torch.optim.AdamW([weights], **hyper, fused=True)
for step in range(steps):
    gradient = torch.randn(size) * 10.0 ** (step % 3 - 1)
    golden["gradients"].append(gradient.tolist())
    weights.grad = gradient.clone()
    golden["norms"].append(torch.nn.utils.clip_grad_norm_([weights], maximum_norm).item())
    optimizer.step()
    golden["weights"].append(weights.tolist())
golden["moment1"] = optimizer.state[weights]["exp_avg"].tolist()
golden["moment2"] = optimizer.state[weights]["exp_avg_sq"].tolist()
path = pathlib.Path(__file__).with_suffix(".json")
path.write_text(json.dumps(golden))
