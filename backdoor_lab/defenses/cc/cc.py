"""CC, Clean & Compact: shrinks extreme rank components, compresses, tunes BatchNorm; no data.

Paper     Phan et al., "Clean and Compact: Efficient Data-Free Backdoor Defense with Model
          Compactness", ECCV 2024
Differs   the rule of scaling is `models/rank_scaling`'s reading of a printed one that cannot be
          meant; a layer that its ranks would not make smaller stays dense; see `aft` for the rest
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.defenses.aft import AFT
from backdoor_lab.defenses.cc.low_rank import Spectrum, rest, smallest, threshold_for
from backdoor_lab.errors import ConfigError
from backdoor_lab.models import parameter_count, replace
from backdoor_lab.models.rank_scaling import RULES, Rule, convolutions, scaled_form
from backdoor_lab.models.tucker import Tucker
from backdoor_lab.validation import Positive, Ratio, validated


class CC(AFT):
    """Scales the convolutions' rank components, truncates them to a budget, then runs AFT.

    Args:
        parts: `all`, or one of the two halves: `scaling_only`, for which a model needs no
            BatchNorm, and `finetune_only`.
        tau: normalised singular value above which a component shrinks.
        rule: what it shrinks to: `centred`, `clipped` or `raw`.
        compression: parameters of the victim, in those of the purified model; None: as many.
        options: what `aft` takes.
    """

    @validated
    def __init__(
        self,
        parts: Literal["all", "scaling_only", "finetune_only"],
        tau: Positive,
        rule: Rule,
        compression: Ratio | None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.parts, self.tau, self.factors = parts, tau, RULES[rule]
        self.compression = compression
        self.keeps_architecture = compression is None
        self.needs_batch_norm = parts != "scaling_only"

    def check_model(self, model: nn.Module) -> None:
        super().check_model(model)
        whole, least = parameter_count(model), smallest(model)
        if self.compression and whole / self.compression < least:
            raise ConfigError(
                f"{self.key}.compression={self.compression:g} would leave fewer than the "
                f"{least} parameters that this model has at rank 1; allowed: null, or up to "
                f"{int(100 * whole / least) / 100}"
            )

    def purify(self, model: nn.Module, aux: AuxiliarySet) -> nn.Module:
        if self.parts != "finetune_only" or self.compression:
            self.constrain(model)
        if self.parts == "scaling_only":
            return model.eval()
        return super().purify(model, aux)

    @torch.no_grad()
    def constrain(self, model: nn.Module) -> None:
        """Scale and truncate the convolutions of `model`, in place."""
        convs = dict(convolutions(model))
        forms = {name: Tucker.of(conv.weight) for name, conv in convs.items()}
        if self.parts != "finetune_only":
            scaled = {
                name: scaled_form(form, self.tau, self.factors) for name, form in forms.items()
            }
            forms = {name: form for name, (form, _) in scaled.items()}
            counts = {name: count for name, (_, count) in scaled.items() if count}
            self.details |= {"scaled": sum(counts.values()), "scaled_per_layer": counts}
            for name, conv in convs.items():
                conv.weight.copy_(forms[name].kernel)
        if self.compression:
            self.compress(model, convs, forms, self.compression)

    def compress(
        self,
        model: nn.Module,
        convs: dict[str, nn.Conv2d],
        forms: dict[str, Tucker],
        ratio: float,
    ) -> None:
        """Put three smaller layers in the place of each convolution that they make smaller."""
        whole = parameter_count(model)
        spectra = {name: Spectrum.of(form) for name, form in forms.items()}
        threshold = threshold_for(spectra, whole / ratio - rest(model))
        ranks = {}
        for name, spectrum in spectra.items():
            if spectrum.size(threshold) < spectrum.shape.numel():
                ranks[name] = spectrum.ranks(threshold)
                replace(model, name, forms[name].truncated(*ranks[name]).layers(convs[name]))
        left = parameter_count(model)
        self.details |= {
            "parameters": {"before": whole, "after": left},
            "threshold": threshold,
            "ranks": {name: list(pair) for name, pair in ranks.items()},
        }
