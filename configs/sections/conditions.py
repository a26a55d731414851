"""Choices of a recipe, and the conditions under which its keys are read."""

from __future__ import annotations

from .keys import When, chosen, given, is_file, is_no_file

OBJECTIVES = ("supervised", "match", "align", "clip", "pairs", "text", "masked_lm", "causal_lm")
LOSSES = ("uniform_off_label_bce", "bce", "cross_entropy")
OPTIMIZERS = ("adamw", "adam", "sgd")
SCHEDULES = ("cosine", "cosine_epochs", "linear", "step_epochs", "constant")
CROPS = ("none", "shift", "random_resized")
POLICIES = ("none", "rand_augment", "trivial_augment_wide")

PICTURES = chosen("objective.name", "supervised", "match", "align", "clip", "pairs")
TEXTS = chosen("objective.name", "text", "masked_lm", "causal_lm")
SUPERVISED = chosen("objective.name", "supervised")
LABELLED = chosen("objective.name", "supervised", "text")
TAUGHT = chosen("objective.name", "match", "align", "clip")
CLASSIFYING = chosen("objective.name", "supervised", "match", "text")
STARTED = given("init") | TAUGHT
FOLDER = When(lambda v: bool(v["data.folder"]) or not v["data.name"], "data.folder set")
NAMED = When(lambda v: not v["data.folder"], "data.folder not set")
SPLIT = NAMED | TEXTS & is_no_file("data.folder")
UNSPLIT = FOLDER & (PICTURES | is_file("data.folder"))
NO_FINETUNING = When(lambda v: not v["finetune"], "finetune=False")
OWN_SIZE = When(
  lambda v: not (v["finetune"] and v["init"]) or v["data.image_size"] > 0, "data.image_size set"
)
BCOS = When(lambda v: v["ops.family"] != "standard", "an ops.family of B-cos networks")
MOST_STEPS = 2**31 - 1
CROPPED = chosen("data.augment.crop", "random_resized")
DRAWN = CROPPED & chosen("data.augment.policy", "rand_augment")
ADAPTIVE = chosen("optimizer.name", "adamw", "adam")
