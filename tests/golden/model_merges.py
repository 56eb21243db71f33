"""Writes model_merges.json: what mergekit makes of a base and three models, tensor by tensor.

Run: python tests/golden/model_merges.py   (needs torch and mergekit 0.1.5)
"""

import json
import pathlib

import torch
from mergekit import merge_methods
from mergekit.merge_methods.base import TensorGroup

torch.manual_seed(23)
shapes = {"embed.weight": [9, 8], "layers.0.weight": [11, 13], "layers.1.bias": [65], "norm.weight": [3]}
base = {name: torch.randn(shape) for name, shape in shapes.items()}
models = [
    {name: tensor + spread * torch.randn_like(tensor) for name, tensor in base.items()}
    for spread in (0.3, 0.2, 1.5)
]


def merge(name, with_base=True, count=3, per_model=None, **parameters):
    """A method over all tensors; values of `per_model` are lists, one for each model."""
    per_model = per_model or {}
    method = merge_methods.get(name)
    result = {}
    for tensor in shapes:
        tensors = [base[tensor]] if with_base else []
        group = TensorGroup.from_tensors(
            tensors + [model[tensor] for model in models[:count]], base_index=0 if with_base else None
        )
        first = 1 if with_base else 0
        by_model = {
            key: {first + index: value for index, value in enumerate(values[:count])}
            for key, values in per_model.items()
        }
        (merged,) = method([group], parameters={**by_model, **parameters})
        result[tensor] = merged.reshape(-1).tolist()
    return result


weights = {"weight": [1.0, 0.5, 2.0]}
mixed = {"weight": [1.0, -0.5, 2.0]}
dense = {"density": [0.3, 0.3, 0.3]}
sparse = {"density": [0.6, 0.6, 0.6], "gamma": [0.1, 0.1, 0.1]}
most = {"density": [0.9, 0.9, 0.9], "gamma": [0.2, 0.2, 0.2]}
merges = {
    "average": merge("linear", with_base=False, per_model=weights),
    "average, not normalized": merge("linear", with_base=False, per_model=mixed, normalize=False),
    "slerp": merge("slerp", count=1, t=0.3),
    "slerp, apart": merge("slerp", count=1, t=0.7),
    "arithmetic": merge("task_arithmetic", per_model=mixed, **{"lambda": 0.7}),
    "arithmetic, normalized": merge("task_arithmetic", per_model=mixed, normalize=True),
    "ties": merge("ties", per_model={**weights, **dense}, **{"lambda": 0.7}),
    "ties, not normalized": merge("ties", per_model={**mixed, **dense}, normalize=False),
    "ties, rescaled": merge("ties", per_model={**mixed, **dense}, rescale=True),
    "breadcrumbs": merge("breadcrumbs", per_model={**mixed, **sparse}, **{"lambda": 0.7}),
    "breadcrumbs, rescaled": merge("breadcrumbs", per_model={**mixed, **sparse}, rescale=True),
    "breadcrumbs, least": merge("breadcrumbs", per_model={**weights, **most}),
    "breadcrumbs-ties": merge("breadcrumbs_ties", per_model={**mixed, **sparse}),
    "sce": merge("sce"),
    "sce, half": merge("sce", select_topk=0.5),
    "model-stock": merge("model_stock"),
    "nuslerp": merge("nuslerp", with_base=False, count=2, per_model=weights),
    "nuslerp, updates": merge("nuslerp", count=2, per_model=weights),
    "karcher": merge("karcher", with_base=False),
    "ties, all": merge("ties", per_model={**mixed, "density": [1.0, 1.0, 1.0]}),
}
golden = {
    "shapes": shapes,
    "base": {name: tensor.reshape(-1).tolist() for name, tensor in base.items()},
    "models": [
        {name: tensor.reshape(-1).tolist() for name, tensor in model.items()} for model in models
    ],
    "merges": merges,
}
path = pathlib.Path(__file__).with_suffix(".json")
path.write_text(json.dumps(golden))
