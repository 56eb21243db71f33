"""Writes merges.json: what mergekit makes of three models near a base, tensor by tensor.

Run: python tests/golden/merges.py   (needs torch and mergekit)

DARE draws its masks from torch; they are written down, so that the same coordinates can be dropped elsewhere.
mergekit scales what is left to the old sum of magnitudes, the paper by 1/density: here that scaling is off, and
the weight is 1/density.
"""

import json
import pathlib

import mergekit.sparsify
import torch
from mergekit.merge_methods.base import TensorGroup
from mergekit.merge_methods.generalized_task_arithmetic import (
    ConsensusMethod,
    GeneralizedTaskArithmeticMerge,
)
from mergekit.merge_methods.slerp import slerp
from mergekit.sparsify import SparsificationMethod

torch.manual_seed(17)
lengths, density = [70, 3, 64, 133], 0.3
base = [torch.randn(length) for length in lengths]
models = [[tensor + 0.3 * torch.randn_like(tensor) for tensor in base] for _ in range(3)]


def merge(consensus, sparsification, weight, normalize, scale):
    method = GeneralizedTaskArithmeticMerge(
        consensus_method=consensus,
        sparsification_method=sparsification,
        default_normalize=normalize,
        default_rescale=False,
        method_name="golden",
        method_pretty_name=None,
        method_reference_url=None,
    )
    return [
        method.merge_group(
            TensorGroup.from_tensors([base[i]] + [model[i] for model in models], base_index=0),
            normalize=normalize,
            rescale=False,
            int8_mask=False,
            weight={1: weight, 2: weight, 3: weight},
            density={1: density, 2: density, 3: density},
            **{"lambda": scale},
        ).tolist()
        for i in range(len(lengths))
    ]


def with_masks(run):
    """Runs, and collects what torch.bernoulli gave, in the order of the calls: tensor by tensor, model by model."""
    drawn, original = [], torch.bernoulli

    def record(probabilities):
        mask = original(probabilities)
        drawn.append(mask.int().tolist())
        return mask

    torch.bernoulli = record
    try:
        return run(), drawn
    finally:
        torch.bernoulli = original


random = SparsificationMethod.random
dare, dare_masks = with_masks(lambda: merge(None, random, 1 / density, False, 0.4))
dare_ties, dare_ties_masks = with_masks(
    lambda: merge(ConsensusMethod.sum, random, 1 / density, True, 1.0)
)
golden = {
    "density": density,
    "base": [tensor.tolist() for tensor in base],
    "models": [[tensor.tolist() for tensor in model] for model in models],
    "average": merge(None, None, 1.0, True, 1.0),
    "arithmetic": merge(None, None, 1.0, False, 0.4),
    "ties": merge(ConsensusMethod.sum, SparsificationMethod.magnitude, 1.0, True, 0.7),
    "dare": dare,
    "dare_masks": dare_masks,
    "dare-ties": dare_ties,
    "dare-ties_masks": dare_ties_masks,
    "slerp": [
        slerp(torch.tensor([0.3]), a[None], b[None])[0].tolist()
        for a, b in zip(models[0], models[1])
    ],
}
path = pathlib.Path(__file__).with_suffix(".json")
path.write_text(json.dumps(golden))
