"""What a protocol makes of defense and auxiliary set, against the papers' numbers."""

from types import SimpleNamespace

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn, zeros
from torch.optim.lr_scheduler import CosineAnnealingLR

from backdoor_lab.config import plain_config

ANP = {"eps": 0.4, "steps": 1, "alpha": 0.2, "momentum": 0.9, "project": False, "acc_ratio": 0.1}
ANP_BB = ANP | {"lr": 0.01, "batch_size": 256, "iterations": 2000}
ANP_PAPER = ANP | {"lr": 0.2, "batch_size": 128, "iterations": 2000}
ANP_BCU = ANP | {"lr": 0.2, "batch_size": 256, "iterations": 1000}
ANP_UNIBP = ANP_BB | {"lr": 0.002}
FT = {"batch_size": 256, "momentum": 0.9, "weight_decay": 5e-4, "t_max": 100}
FT_BB = FT | {"lr": 0.01, "epochs": 100, "patience": None}
FT_TINY = FT | {"lr": 0.01, "epochs": 200, "patience": 10}  # plateau on the training loss
FT_UNIBP = FT | {"lr": 0.002, "epochs": 20, "patience": None}
U3 = {"u": 3, "pairing": "reference"}
U5 = {"u": 5, "pairing": "reference"}
BCU = {
    "stem": 0.01, "shallow": 0.01, "deep": 0.27, "head": 0.1, "strategy": "increasing",
    "only": None, "temperature": None, "labels": "soft", "epochs": 100, "lr": 0.01,
    "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 256, "t_max": 100,
}  # fmt: skip
UNIBP = {
    "k_mode": "ratio_affine", "k": 0.066, "granularity": "entry", "value": "noise",
    "scores": "fisher", "fisher": "training", "reset": True, "bn_weight": 1.0, "var_weight": 0.05,
    "prune_from": "victim", "mask": True, "epochs": 20, "lr": 0.001, "lr_floor": 0.0002,
    "momentum": 0.9, "batch_size": 128,
}  # fmt: skip
NPD = {
    "layer": None, "polarizer": "convbn", "warm_epochs": 5, "warm_lr": 1e-4, "epochs": 50,
    "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 128,
    "batch_statistics": False,
    "adversary": {"norm": "l2", "radius": 3.0, "start": "zero", "steps": 2, "step": 0.1,
                  "sign": True, "stop_rate": 0.6},
    "weights": {"clean": 1.0, "answer": 0.4, "wrong": 0.4, "target": 0.4},
}  # fmt: skip
NPD_GTSRB = NPD | {
    "adversary": NPD["adversary"] | {"radius": 5.0},
    "weights": {"clean": 1.0, "answer": 0.5, "wrong": 0.5, "target": 0.5},
}
NPD_TINY_GIC = NPD | {
    "warm_epochs": 0,
    "adversary": NPD["adversary"] | {"radius": 6.0},
    "weights": {"clean": 1.0, "answer": 1.0, "wrong": 0.1, "target": 0.1},
}
NPD_TINY = NPD_TINY_GIC | {
    "adversary": NPD_TINY_GIC["adversary"] | {"sign": False},
    "batch_statistics": True,
}
TSBD = {
    "neurons": 0.15, "weights": 0.7, "unlearn_lr": 1e-4, "unlearn_epochs": 1000, "chance": None,
    "r": 0.05, "alpha": 0.7, "epochs": 20, "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0,
    "batch_size": 256,
}  # fmt: skip
TSBD_UNIBP = TSBD | {"lr": 0.002}
IBAU = {"terms": 5, "inner_step": 0.1, "ascent_lr": 10, "penalty": 0.001, "share": 0.01}
IBAU_BB = IBAU | {
    "rounds": 5, "lr": 1e-4, "amsgrad": True, "batch_size": 256, "space": "normalised",
    "augment": True,
}  # fmt: skip
IBAU_BCU = IBAU_BB | {"rounds": 100, "batch_size": 100, "amsgrad": False, "augment": False}
IBAU_PAPER = IBAU_BCU | {"rounds": 5, "lr": 1e-3, "space": "pixels"}
SAU_BB = {
    "eps": 0.2, "step": None, "steps": 5, "adv_weight": 0.01, "share_weight": 1,
    "clean_weight": 1, "robust_weight": 0, "unlearn_weight": 1, "clamp": False,
    "train_mode": False, "rounds": 100, "lr": 1e-4, "batch_size": 256,
}  # fmt: skip
FT_SAM = {
    "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 256, "lr": 0.01, "adaptive": True,
    "epochs": 100, "rho": 2, "label_smoothing": 0.1, "schedule": "cosine",
}  # fmt: skip
FT_SAM_BB = FT_SAM | {"schedule": "waves"}  # as it runs from the command line, file or no file
FT_SAM_FILES = FT_SAM | {"rho": 8, "label_smoothing": 0}
NAD_PAPER = {
    "teacher_epochs": 10, "epochs": 20, "lr": 0.1, "schedule": "steps", "momentum": 0.9,
    "nesterov": True, "weight_decay": 1e-4, "batch_size": 64, "betas": [500, 1000, 1000],
    "power": 2,
}  # fmt: skip
NAD_BB = NAD_PAPER | {
    "epochs": 10, "lr": 0.01, "schedule": "constant", "nesterov": False, "weight_decay": 5e-4,
    "batch_size": 256, "betas": [500, 1000],
}  # fmt: skip
NAD_BCU = NAD_PAPER | {
    "epochs": 100, "lr": 0.01, "schedule": "cosine", "t_max": 100, "nesterov": False,
    "weight_decay": 5e-4, "batch_size": 256,
}  # fmt: skip
NAD_UNIBP = NAD_BB | {"lr": 0.002, "epochs": 20}
MCR = {
    "curve": "bezier", "points": 3, "t": 0.3, "end_epochs": 10, "end_lr": 0.01,
    "end_t_max": None, "end_patience": None, "epochs": 100, "lr": 0.01, "momentum": 0.9,
    "weight_decay": 5e-4, "batch_size": 128,
}  # fmt: skip
MCR_BB = MCR | {"t": 0.1, "end_epochs": 100, "end_t_max": 100}
MCR_TINY = MCR_BB | {"end_epochs": 200, "end_patience": 10, "epochs": 200}
MCR_BCU = MCR | {"batch_size": 256, "end_t_max": 100}
FST = {
    "alpha": 0.2, "fresh": "all", "rescale": False, "layers": "all", "augment": True,
    "epochs": 10, "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0, "batch_size": 128,
    "t_max": None,
}  # fmt: skip
FST_GIC = FST | {
    "fresh": "weight", "rescale": True, "augment": False, "epochs": 100, "weight_decay": 5e-4,
    "batch_size": 256, "t_max": 100,
}  # fmt: skip
FST_UNIBP = FST | {"lr": 0.002, "epochs": 20}
FP = {
    "where": "map", "statistic": "abs", "step": 0.01, "acc_ratio": 0.1, "tuned": "all",
    "epochs": 100, "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 256,
}  # fmt: skip
FP_BB = FP | {"t_max": 100, "patience": None}
FP_BCU = FP_BB | {"where": "stage", "step": 0.001, "tuned": "stage"}
RNP = {
    "unlearn_epochs": 20, "unlearn_lr": 0.01, "unlearn_until": 0.2, "momentum": 0.9,
    "weight_decay": 5e-4, "recover_epochs": 20, "recover_lr": 0.2, "alpha": 0.2,
    "batch_size": 128, "threshold": None, "acc_drop": 0.02,
}  # fmt: skip
RNP_BB = RNP | {"batch_size": 256, "threshold": 0.7}
BNP, BNP_BB = {"u": 3, "prune": "gamma"}, {"u": 3, "prune": "channel"}
AFT = {
    "images": 5120, "synthesis_iterations": 500, "synthesis_lr": 0.1, "radius": 0.5,
    "attack_iterations": 10, "gamma": 1, "freeze_statistics": False, "keep_pruned": False,
    "epochs": 5, "lr": 3e-4, "batch_size": 128,
}  # fmt: skip
PAM = {
    "rho": 0.5, "reversed_share": 0.2, "rounds": 3, "epochs": 30, "lr": 0.01, "momentum": 0.1,
    "batch_size": 128, "mask_lr": 0.01, "generator_width": 32, "generator_lr": 0.001,
    "generator_batch_size": 128, "image_bound": 0.3, "feature_bound": 3, "benign": 0.01,
}  # fmt: skip
CC = AFT | {"parts": "all", "tau": 4, "rule": "centred", "compression": None}
SEEN5, SEEN10, SEEN1 = ({"ratio": ratio} for ratio in (0.05, 0.1, 0.01))

# protocol, data set, defense, values of the defense, values of aux=seen
TABLE = [
    ("bb", "cifar10", "anp", ANP_BB, SEEN5),
    ("bb", "gtsrb", "anp", ANP_BB, SEEN5),
    ("bb", "tiny_imagenet", "anp", ANP_BB, SEEN5),
    ("bb", "cifar10", "clp", U3, SEEN5),
    ("bb", "gtsrb", "clp", U3, SEEN5),
    ("bb", "tiny_imagenet", "clp", U5, SEEN5),  # its yaml of this data set
    ("bb", "cifar10", "ft", FT_BB, SEEN5),
    ("bb", "gtsrb", "ft", FT_BB, SEEN5),
    ("bb", "tiny_imagenet", "ft", FT_TINY, SEEN5),
    ("gic", "cifar10", "anp", ANP_BB, SEEN5),  # BackdoorBench's values, as its code has them
    ("gic", "tiny_imagenet", "anp", ANP_BB, SEEN5),
    ("gic", "cifar10", "ft", FT_BB, SEEN5),
    ("gic", "gtsrb", "ft", FT_BB, SEEN5),
    ("gic", "tiny_imagenet", "ft", FT_TINY, SEEN5),
    ("cc", "cifar10", "anp", ANP_PAPER, SEEN1),  # not printed: the method's own
    ("cc", "cifar10", "clp", U3, SEEN1),  # not printed; no data anyway
    ("cc", "cifar100", "clp", U3, SEEN1),
    ("cc", "gtsrb", "clp", U3, SEEN1),
    ("cc", "cifar10", "cc", CC, SEEN1),  # no data anyway
    ("cc", "cifar100", "cc", CC, SEEN1),
    ("cc", "gtsrb", "cc", CC, SEEN1),
    ("cc", "cifar10", "aft", AFT, SEEN1),
    ("cc", "mnist", "cc", CC, SEEN1),  # what suits the digits gives way
    ("cc", "mnist", "aft", AFT, SEEN1),
    ("bcu", "cifar10", "bcu", BCU, {}),
    ("bcu", "gtsrb", "bcu", BCU, {}),
    ("bcu", "cifar10", "ft", FT_BB, {}),
    ("bcu", "gtsrb", "ft", FT_BB, {}),
    ("bcu", "cifar10", "anp", ANP_BCU, {}),  # 100 epochs of 2,500 images
    ("bcu", "gtsrb", "anp", ANP_BCU, {}),
    ("unibp", "cifar10", "unibp", UNIBP, SEEN10),
    ("unibp", "gtsrb", "unibp", UNIBP, SEEN10),
    ("unibp", "cifar10", "ft", FT_UNIBP, SEEN10),
    ("unibp", "gtsrb", "ft", FT_UNIBP, SEEN10),
    ("unibp", "cifar10", "anp", ANP_UNIBP, SEEN10),  # iterations of BackdoorBench; unstated
    ("unibp", "gtsrb", "anp", ANP_UNIBP, SEEN10),
    ("bb", "cifar10", "npd", NPD, SEEN5),
    ("bb", "gtsrb", "npd", NPD_GTSRB, SEEN5),
    ("bb", "tiny_imagenet", "npd", NPD_TINY, SEEN5),
    ("bb", "cifar100", "npd", NPD | {"batch_size": 256, "epochs": 100}, SEEN5),
    ("bb", "digits", "npd", NPD, SEEN5),
    ("gic", "cifar10", "npd", NPD, SEEN5),
    ("gic", "gtsrb", "npd", NPD_GTSRB, SEEN5),
    ("gic", "tiny_imagenet", "npd", NPD_TINY_GIC, SEEN5),
    ("none", "gtsrb", "npd", NPD_GTSRB, {}),
    ("none", "tiny_imagenet", "npd", NPD_TINY, {}),
    ("none", "tiny_imagenet", "sau", SAU_BB | {"rounds": 20}, {}),
    ("none", "cifar10", "tsbd", TSBD, {}),  # the authors' code
    ("unibp", "cifar10", "tsbd", TSBD_UNIBP, SEEN10),
    ("unibp", "gtsrb", "tsbd", TSBD_UNIBP, SEEN10),
    ("bb", "cifar10", "i_bau", IBAU_BB, SEEN5),
    ("bb", "gtsrb", "i_bau", IBAU_BB, SEEN5),
    ("bb", "tiny_imagenet", "i_bau", IBAU_BB, SEEN5),
    ("bb", "mnist", "i_bau", IBAU_BB, SEEN5),
    ("bcu", "cifar10", "i_bau", IBAU_BCU, {}),
    ("bcu", "gtsrb", "i_bau", IBAU_BCU, {}),
    ("cc", "cifar10", "i_bau", IBAU_PAPER, SEEN1),  # not printed: the authors'
    ("cc", "digits", "i_bau", IBAU_PAPER, SEEN1),
    ("bb", "cifar10", "sau", SAU_BB, SEEN5),
    ("bb", "gtsrb", "sau", SAU_BB, SEEN5),
    ("bb", "tiny_imagenet", "sau", SAU_BB | {"rounds": 20}, SEEN5),
    ("bb", "mnist", "sau", SAU_BB, SEEN5),
    ("gic", "cifar10", "sau", SAU_BB, SEEN5),
    ("gic", "gtsrb", "sau", SAU_BB, SEEN5),
    ("gic", "tiny_imagenet", "sau", SAU_BB | {"rounds": 20}, SEEN5),
    ("gic", "digits", "sau", SAU_BB, SEEN5),
    ("unibp", "cifar10", "sau", SAU_BB, SEEN10),  # it has none: BackdoorBench's
    ("none", "cifar10", "ft_sam", FT_SAM, {}),
    ("none", "gtsrb", "ft_sam", FT_SAM_FILES | {"epochs": 50}, {}),
    ("none", "tiny_imagenet", "ft_sam", FT_SAM_FILES, {}),
    ("bb", "cifar10", "ft_sam", FT_SAM_BB, SEEN5),
    ("bb", "gtsrb", "ft_sam", FT_SAM_BB | {"epochs": 50}, SEEN5),
    ("bb", "tiny_imagenet", "ft_sam", FT_SAM_BB | {"schedule": "constant"}, SEEN5),
    ("bb", "mnist", "ft_sam", FT_SAM_BB, SEEN5),
    ("gic", "cifar10", "ft_sam", FT_SAM_BB, SEEN5),
    ("gic", "gtsrb", "ft_sam", FT_SAM_BB | {"epochs": 50}, SEEN5),
    ("gic", "tiny_imagenet", "ft_sam", FT_SAM_BB | {"schedule": "constant"}, SEEN5),
    ("none", "cifar10", "nad", NAD_PAPER, {}),
    ("bb", "cifar10", "nad", NAD_BB, SEEN5),
    ("bb", "gtsrb", "nad", NAD_BB, SEEN5),
    ("bb", "tiny_imagenet", "nad", NAD_BB | {"batch_size": 128}, SEEN5),
    ("bb", "digits", "nad", NAD_BB, SEEN5),
    ("gic", "cifar10", "nad", NAD_BB, SEEN5),
    ("bcu", "cifar10", "nad", NAD_BCU, {}),
    ("bcu", "gtsrb", "nad", NAD_BCU, {}),
    ("unibp", "cifar10", "nad", NAD_UNIBP, SEEN10),
    ("unibp", "gtsrb", "nad", NAD_UNIBP, SEEN10),
    ("cc", "cifar10", "nad", NAD_PAPER, SEEN1),  # not printed: the method's own
    ("none", "cifar10", "mcr", MCR, {}),
    ("bb", "cifar10", "mcr", MCR_BB, SEEN5),
    ("bb", "gtsrb", "mcr", MCR_BB, SEEN5),
    ("bb", "tiny_imagenet", "mcr", MCR_TINY, SEEN5),
    ("gic", "cifar10", "mcr", MCR_BB, SEEN5),  # not in the paper: its platform's
    ("bcu", "cifar10", "mcr", MCR_BCU, {}),
    ("bcu", "gtsrb", "mcr", MCR_BCU, {}),
    ("unibp", "cifar10", "mcr", MCR_BB, SEEN10),  # nor in this one
    ("cc", "cifar10", "mcr", MCR, SEEN1),  # nor in this one: the method's own
    ("none", "cifar10", "fst", FST, {}),
    ("bb", "cifar10", "fst", FST, SEEN5),  # which it lacks: the method's own
    ("gic", "cifar10", "fst", FST_GIC, SEEN5),
    ("gic", "gtsrb", "fst", FST_GIC | {"alpha": 0.1}, SEEN5),
    ("gic", "tiny_imagenet", "fst", FST_GIC | {"alpha": 0.001}, SEEN5),
    ("unibp", "cifar10", "fst", FST_UNIBP, SEEN10),
    ("unibp", "gtsrb", "fst", FST_UNIBP | {"alpha": 0.1}, SEEN10),
    ("cc", "cifar100", "fst", FST | {"alpha": 0.001}, SEEN1),
    ("bcu", "cifar10", "fst", FST, {}),
    ("bb", "digits", "mcr", MCR_BB, SEEN5),
    ("bcu", "mnist", "mcr", MCR_BCU, {}),
    ("gic", "digits", "fst", FST_GIC, SEEN5),
    ("unibp", "mnist", "fst", FST_UNIBP, SEEN10),
    ("bb", "cifar10", "fp", FP_BB, SEEN5),
    ("bb", "cifar10", "rnp", RNP_BB, SEEN5),
    ("bb", "cifar10", "bnp", BNP_BB, SEEN5),
    ("bb", "gtsrb", "fp", FP_BB, SEEN5),
    ("bb", "gtsrb", "rnp", RNP_BB, SEEN5),
    ("bb", "gtsrb", "bnp", BNP_BB, SEEN5),
    ("bb", "mnist", "fp", FP_BB, SEEN5),
    ("bb", "mnist", "rnp", RNP_BB, SEEN5),
    ("bb", "mnist", "bnp", BNP_BB, SEEN5),
    ("bb", "digits", "fp", FP_BB, SEEN5),
    ("bb", "digits", "rnp", RNP_BB, SEEN5),
    ("bb", "digits", "bnp", BNP_BB, SEEN5),
    ("gic", "cifar10", "fp", FP_BB, SEEN5),
    ("gic", "cifar10", "rnp", RNP_BB, SEEN5),
    ("gic", "cifar10", "bnp", BNP_BB, SEEN5),
    ("gic", "digits", "fp", FP_BB, SEEN5),
    ("gic", "digits", "rnp", RNP_BB, SEEN5),
    ("gic", "digits", "bnp", BNP_BB, SEEN5),
    ("bb", "tiny_imagenet", "fp", FP_BB | {"epochs": 200, "patience": 10}, SEEN5),
    ("gic", "tiny_imagenet", "fp", FP_BB | {"epochs": 200, "patience": 10}, SEEN5),
    ("unibp", "cifar10", "fp", FP_BB, SEEN10),  # no baseline of its own
    ("unibp", "cifar10", "rnp", RNP_BB, SEEN10),
    ("unibp", "cifar10", "bnp", BNP_BB, SEEN10),
    ("bcu", "cifar10", "fp", FP_BCU, {}),
    ("bcu", "gtsrb", "fp", FP_BCU, {}),
    ("bcu", "mnist", "fp", FP_BCU, {}),
    ("bcu", "digits", "fp", FP_BCU, {}),
    ("bcu", "cifar10", "rnp", RNP, {}),  # not printed: the method's own
    ("bcu", "cifar10", "bnp", BNP, {}),
    ("cc", "cifar10", "fp", FP, SEEN1),
    ("cc", "cifar10", "rnp", RNP, SEEN1),
    ("cc", "cifar10", "bnp", BNP, SEEN1),
    ("none", "cifar10", "fp", FP, {}),
    ("none", "cifar10", "rnp", RNP, {}),
    ("none", "cifar10", "bnp", BNP, {}),
    ("none", "cifar10", "pam", PAM, {}),  # the authors' code, and BTI-DBF's
    ("unibp", "cifar10", "pam", PAM, SEEN10),  # no baseline of its own
    # what suits the digits gives way to what a paper says
    ("bb", "digits", "anp", ANP_BB, SEEN5),
    ("gic", "digits", "ft", FT_BB, SEEN5),
    ("bcu", "digits", "bcu", BCU, {}),
    ("unibp", "digits", "unibp", UNIBP, SEEN10),
]


@pytest.mark.parametrize(
    ("protocol", "dataset", "defense", "values", "aux"),
    TABLE,
    ids=["-".join(row[:3]) for row in TABLE],
)
def test_values_are_those_of_the_papers(config, protocol, dataset, defense, values, aux):
    cfg = config(f"protocol={protocol}", f"dataset={dataset}", f"defense={defense}", "aux=seen")
    assert {key: cfg.defense[key] for key in values} == values
    assert {key: cfg.aux[key] for key in aux} == aux


AUXILIARY = [
    *(("gic", kind, 0.05) for kind in ("seen", "reserved", "brightness", "synthetic", "external")),
    ("bcu", "reserved", 0.05),
    ("bcu", "external", 0.05),
]


@pytest.mark.parametrize(("protocol", "kind", "ratio"), AUXILIARY)
@pytest.mark.parametrize("dataset", ["cifar10", "digits"])
def test_auxiliary_sets_have_the_size_of_the_papers(config, protocol, kind, ratio, dataset):
    cfg = config(f"protocol={protocol}", f"dataset={dataset}", f"aux={kind}")
    assert (cfg.aux.ratio, cfg.aux.size) == (ratio, None)


@pytest.mark.parametrize("kind", [row[1] for row in AUXILIARY if row[0] == "gic"])
@pytest.mark.parametrize("dataset", ["cifar10", "digits"])
def test_gic_s_shares_are_of_the_original_images(config, kind, dataset):
    cfg = config("protocol=gic", f"dataset={dataset}", f"aux={kind}")
    assert cfg.aux.ratio_base == "original"


@pytest.mark.parametrize("kind", ["seen", "reserved", "brightness"])
def test_gic_s_defender_holds_2500_images_of_cifar10(config, kind):
    cfg = config("protocol=gic", "dataset=cifar10", f"aux={kind}")
    held = round(50_000 * cfg.dataset.reserved)
    data = SimpleNamespace(original=50_000, train=range(50_000 - held), reserved=range(held))
    assert instantiate(plain_config(cfg, "aux"), _convert_="all").wanted(data) == 2500


@pytest.mark.parametrize(
    ("protocol", "dataset", "radius", "strength"),
    [
        ("gic", "cifar10", 0.1, 0.5),
        ("gic", "digits", 0.1, 0.5),
        ("none", "cifar10", 0.1, 0.5),
        ("none", "digits", 0.02, 0.2),  # which go with their contrast
    ],
)
def test_gic_calibrates_as_in_its_experiments(config, protocol, dataset, radius, strength):
    choice = [f"protocol={protocol}", f"dataset={dataset}", "aux=brightness", "calibration=gic"]
    cfg = config(*choice)
    assert (cfg.calibration.steps, cfg.calibration.lr) == (100, 0.1)
    assert (cfg.calibration.radius, cfg.aux.strength) == (radius, strength)


def test_bcu_s_defender_holds_2500_images_of_gtsrb(config):
    cfg = config("protocol=bcu", "dataset=gtsrb", "aux=reserved")
    assert round(cfg.aux.ratio * 39_209) == 2500


@pytest.mark.parametrize(
    ("ratio", "batch"), [(0.01, 32), (0.02, 32), (0.05, 64), (0.1, 128), (0.2, 128), (0.005, 32)]
)
def test_unibp_s_batch_goes_with_the_share_of_the_data(config, ratio, batch):
    cfg = config("protocol=unibp", "dataset=cifar10", f"aux.ratio={ratio}")
    assert cfg.defense.batch_size == batch
    assert config("protocol=unibp", "aux.ratio=0.01", "aux.size=500").defense.batch_size == 128
    assert config("protocol=unibp", "defense.batch_size=7").defense.batch_size == 7


@pytest.mark.parametrize(
    ("protocol", "control", "expected"),
    [
        ("unibp", "ft_matched", {"lr": 0.001, "lr_floor": 0.0002, "epochs": 20,
                                 "batch_size": 128, "weight_decay": 0.0}),
        ("unibp", "ft_tuned", {"epochs": 20, "batch_size": 256}),
        ("bb", "ft_tuned", {"epochs": 100, "batch_size": 256}),
    ],
)  # fmt: skip
def test_controls_follow_the_protocol(config, protocol, control, expected):
    cfg = config(f"protocol={protocol}", "dataset=cifar10", f"defense={control}")
    assert {key: cfg.defense[key] for key in expected} == expected


def test_the_rate_of_a_few_epochs_of_backdoorbench_hardly_falls(config):
    node = plain_config(config("protocol=unibp", "dataset=cifar10", "defense=ft"), "defense")
    made = instantiate(node, _convert_="all").recipe.optimizers([nn.Parameter(zeros(1))], 1)
    scheduler = made["lr_scheduler"]["scheduler"]
    assert (type(scheduler), scheduler.T_max) == (CosineAnnealingLR, 100)


def test_a_value_on_the_command_line_wins(config):
    cfg = config("protocol=bb", "dataset=tiny_imagenet", "defense=clp", "defense.u=4")
    assert cfg.defense.u == 4
    cfg = config("protocol=unibp", "defense=ft", "defense.lr=0.1", "aux.ratio=0.02")
    assert (cfg.defense.lr, cfg.aux.ratio) == (0.1, 0.02)
    assert OmegaConf.select(cfg, "defense.patience") is None
