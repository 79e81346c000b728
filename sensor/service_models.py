"""Which models judge, and on which device: what a daemon and a replay load alike.

A folder that the settings name wins; then the site's own model, which a sensor learned; then the one that comes along.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from models.checkpoint import DEFAULT_MODEL, Bundle, ModelDoesNotFit, load
from models.multiflow_checkpoint import FlowBundle, folder_of
from models.multiflow_checkpoint import load as load_flows
from sensor.config import Settings
from sensor.engine import Judge


class Models(NamedTuple):
    """Models that are loaded, and where they shall run (None: CUDA where there is one)."""

    words: Bundle
    flows: FlowBundle | None
    device: torch.device | None

    @property
    def name(self) -> str:
        """Name and version of the word model."""
        return f"{self.words.manifest.name} {self.words.manifest.version}"

    @property
    def flows_name(self) -> str:
        """Name and version of the multi-flow model, "" when there is none."""
        return "" if self.flows is None else f"{self.flows.manifest.name} {self.flows.manifest.version}"

    def judge(self, settings: Settings) -> Judge:
        """Lay out a judge with these models. Raises ModelDoesNotFit or VocabularyDoesNotFit."""
        return Judge(settings, self.words, self.flows, device=self.device)


def load_models(settings: Settings, *, site: Path | None = None, log: bool = False) -> Models:
    """Load the models that the settings name; `site` is a site's own word model, taken where they name none.

    `log` says that flows come from a log and not from packets. Raises ModelDoesNotFit, one line.
    """
    name = settings.model.device
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ModelDoesNotFit(f"model.device is {name}, but torch finds no CUDA device here: set it to auto or cpu")
    torch.set_num_threads(settings.model.threads)
    words = load(settings.model.path or site or DEFAULT_MODEL)
    last_flows = folder_of(settings.model.multiflow, log=log)
    return Models(words, load_flows(last_flows) if last_flows else None, None if name == "auto" else torch.device(name))
