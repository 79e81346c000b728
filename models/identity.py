"""What a model is, in one number: whether kept states belong to it.

The states of conversations mean something to one set of weights only. A manifest's hash is of the file of weights, and says
nothing of how evidence is weighed, which decides what is accumulated of it. So the digest here is of everything that the
states depend on, and of nothing else: a model that was calibrated anew, or given another name, goes on with its states.
`sensor.engine_state` calls this when states are kept and taken up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec
import torch
from torch import Tensor

from models.checkpoint import Bundle
from models.multiflow_checkpoint import FlowBundle


def of_words(bundle: Bundle) -> str:
    """SHA-256, in hexadecimal, of a word model: weights, counts, the weights of its evidence, and its vocabulary."""
    tensors = dict(bundle.model.state_dict())
    tensors |= {f"counts.{place}": torch.from_numpy(joint) for place, joint in enumerate(bundle.counts.joint)}
    tensors["largest"], tensors["mean"] = torch.from_numpy(bundle.weights.largest), torch.from_numpy(bundle.weights.mean)
    manifest = bundle.manifest
    return _digest(tensors, [bundle.weights.bias, manifest.parts, manifest.sizes, manifest.spread, manifest.vocabulary])


def of_flows(bundle: FlowBundle) -> str:
    """SHA-256, in hexadecimal, of a multi-flow model: weights, columns, classes, and what makes a window."""
    manifest = bundle.manifest
    facts = [manifest.classes, manifest.columns, manifest.rules, manifest.flows, manifest.sequence, manifest.temperature]
    return _digest(bundle.model.state_dict(), facts)


def _digest(tensors: Mapping[str, Tensor], facts: list[object]) -> str:
    """Hash numbers under their names and shapes, then the facts as JSON."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        numbers = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {numbers.dtype} {tuple(numbers.shape)}\n".encode())
        found.update(numbers.reshape(-1).view(torch.uint8).numpy().data)
    found.update(msgspec.json.encode(facts, order="deterministic"))
    return found.hexdigest()
