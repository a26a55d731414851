"""Default values of the fields of every recipe.

A recipe module has `get_config() -> ConfigDict` and a table `VARIANTS` of functions that change
such a config. `--config=NAME:variant` picks one, `--config.a.b=value` changes single fields.
Durations are steps, or text such as "90 epochs".
"""

from collections.abc import Callable

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Returns the defaults; `model.name`, `data.name` and `steps` are for the recipe to set."""
  return ConfigDict(
    {
      "seed": 0,  # of initialisation, data order, augmentation and dropout
      "model": {  # arguments of bcos_jax.create; more may be added
        "name": "",
        "num_classes": 0,
      },
      "text": {  # the text tower of pairs, which stays conventional: arguments of bcos_jax.create
        "name": "",
      },
      "ops": {  # layer family and any of its fields
        "family": "standard",
      },
      "init": "",  # bundle folder to start from; "" starts at random, or from a teacher
      "redraw": (),  # regular expressions of parameters that `init` may lack, reinitialised
      "finetune": False,  # a new head for the data's classes; fields that are 0 are filled in
      "best": False,  # end with the best evaluated state that was saved, not with the last
      "fold_mean": True,  # of batch norms into their biases, when `init` is B-cosified
      "data": {
        "name": "",  # TFDS name, unless there is a folder
        # the user's pictures: DIR/class/..., or DIR/{train,val}/class/...; of texts: a file, or a
        # folder with {train,test}.{csv,tsv,jsonl}, or of Hugging Face's save_to_disk
        "folder": "",
        "text": "text",  # column or key of texts
        "label": "label",  # of their labels
        "tokenizer": "",  # folder, or "reviews" for their words; "" for that of `init`
        "max_length": 0,  # maximum number of tokens of a text; 0: the network's context
        "truncate": False,  # truncate longer texts instead of refusing them
        "hidden_share": 0.15,  # of the tokens, for masked_lm
        "labels": "",  # table of the folder's files: name, one label or several separated by |
        "unlabelled": False,  # the folder is any pictures and tar files of them, without classes
        "held_out": 0.2,  # share of the folder to evaluate on, where it is not split itself
        "balance": 0.0,  # 0 draws every picture of the folder equally often, 1 every class
        "label_noise": 0.0,  # share of the training labels drawn at random, for sanity checks
        "data_dir": "",  # "" for the user's cache folder (or $BCOS_JAX_DATA_DIR)
        "train_split": "train",
        "test_split": "test",
        "batch_size": 64,  # of all devices together
        "eval_batch_size": 256,
        "image_size": 224,  # of evaluation, and of training unless train_size is set
        "train_size": 0,  # side of training images; 0: image_size
        "train_sizes": (),  # image sides, one drawn per step; pictures are cropped at the largest
        "resize": 256,  # shorter side before the central crop; 0: straight to image_size
        "interpolation": "bilinear",  # PIL's anti-aliased filter
        "damaged": "fail",  # pictures that cannot be read: fail, or skip and count them
        "augment": augment(),
        "workers": 0,  # decoding processes; 0 decodes in threads
        "cache": False,  # keep decoded images in memory
      },
      "steps": 0,
      "objective": {
        # supervised (labels); align or clip (a teacher, no labels); pairs (captions); of language
        # models: text (labels), masked_lm or causal_lm
        "name": "supervised",
        "teacher": "",  # bundle of the frozen network; the student starts from it unless `init` is
        "teacher_model": "",  # its architecture, for `bcos-jax compile`; "" for the student's
        "teacher_size": 0,  # side of its pictures, if not data.image_size
        "depths": "corrected",  # blocks whose tokens align compares: corrected, published, numbers
        "token_weight": 1.0,  # of align
        "pooled_weight": 1.0,  # of align
        "norm_weight": 0.0,  # of align: keeps the Frobenius norms of the teacher's maps
        "scale": 10.0,  # of clip
        "bias": -10.0,  # of clip
        "learned": False,  # scale and bias of clip
        "captions": 8,  # of pairs: different ones of a picture, a step draws one
        "negatives": "global",  # of clip: global, or device as published
      },
      "loss": {
        "name": "uniform_off_label_bce",
        "eval_name": "bce",
        "smoothing": 0.0,  # of bce and cross_entropy
        "off": -1.0,  # least target of uniform_off_label_bce; -1: one over the classes
      },
      "optimizer": optimizer(),
      "ema": {  # moving average of the network; evaluated beside it, and saved in its place
        "decay": 0.0,  # per example and epoch, as in torchvision's reference; 0: off
        "every": 32,  # steps between updates
      },
      "watch": {
        "explain_every": 0,  # steps between figures of explanations; 0: none
        "explain_images": 6,  # pictures per figure, always the same ones
        "profile_steps": 0,  # steps to trace with JAX's profiler; 0: none
        "wandb": "",  # project of Weights & Biases to log to as well; "": none
      },
      "recompute": False,  # recompute blocks in the backward pass, to save memory
      "accumulate": 1,  # parts that a batch is cut into, one after the other, to save memory
      "nonfinite": "stop",  # at a loss or gradient that is not finite; skip leaves the step out
      "eval_every": 0,  # 0: only at the end
      "log_every": 10,
      "checkpoint_every": 0,  # 0: only at the end and when interrupted
      "keep_every": 0,  # checkpoints at its multiples are never deleted, beside newest and best
      "mesh": {  # axis sizes; -1 takes the remaining devices
        "data": -1,
        "fsdp": 1,
        "tensor": 1,
      },
      # (regular expression, mesh axes by dimension) of arrays to split; (("", "fsdp"),) splits the
      # largest dimension of every one.
      "layout": (),
    },
    # A duration is a number or text; values from the command line are checked when they are read.
    type_safe=False,
  )


def language_model() -> ConfigDict:
  """Returns what B-cos LM's published recipes share: AdamW, linear warm-up and decay."""
  config = get_config()
  config.data.update(batch_size=16, eval_batch_size=64)
  config.optimizer.update(schedule="linear", agc=0.0, warmup_steps="0.5 epochs")
  config.steps, config.log_every = "5 epochs", 50
  config.eval_every = config.checkpoint_every = 1000
  config.best = True
  return config


def imagenet() -> ConfigDict:
  """Returns what the published ImageNet recipes share: data, crops, mirroring, clipping."""
  config = get_config()
  config.model.num_classes = 1000
  config.data.update(name="imagenet2012", test_split="validation", workers=16)
  config.data.augment.update(crop="random_resized", flip=0.5)
  config.log_every = 100
  config.eval_every = config.checkpoint_every = "1 epoch"
  return config


def vit(config: ConfigDict, family: str, size: str) -> None:
  """Names a SimpleViT or ViTc of B-cos v2 and sets its 90 epochs, batch and warm-up."""
  patch = "patch16_224" if family == "simple_vit" else "patch1_14"
  config.model.name = f"{family}_{size}_{patch}"
  config.steps = "90 epochs"
  large = size == "l" or (family, size) == ("simple_vit", "b")
  config.data.batch_size = 512 if large else 1024
  config.optimizer.warmup_steps = 50_000 if large else 10_000


def cifar10(config: ConfigDict) -> None:
  """Makes a recipe one of the norm ablations of B-cos v2 on CIFAR-10."""
  config.model.update(name="resnet20", num_classes=10)
  config.data.update(name="cifar10", test_split="test", image_size=32, resize=0, batch_size=64)
  config.data.augment.update(crop="shift", flip=0.5)
  config.optimizer.update(name="adam", lr=1e-3, schedule="cosine_epochs", warmup_steps=0, agc=0.0)
  config.loss.update(name="bce", eval_name="bce")
  config.steps = "100 epochs"


def runlocal(name: str) -> Callable[[ConfigDict], None]:
  """Returns a variant that runs a recipe for real in a minute on a laptop, offline.

  It keeps the recipe's family, optimiser, loss and augmentation, and takes a tiny network and
  handwritten digits in place of the rest.
  """

  def variant(config: ConfigDict) -> None:
    labelled = config.objective.name == "supervised"
    config.model = ConfigDict({"name": name, "num_classes": 10 if labelled else 0})
    config.init, config.redraw, config.objective.teacher_model = "", (), ""
    config.data.update(name="digits", test_split="test", workers=0, batch_size=64)
    config.data.update(image_size=32, train_size=0, resize=0)
    config.data.augment.update(scale=(0.6, 1.0), flip=0.0)
    config.optimizer.update(lr=3e-3, warmup_steps=20)
    config.steps, config.log_every = 100, 10
    config.eval_every, config.checkpoint_every = 50, 0

  return variant


def conventional(config: ConfigDict) -> None:
  """Makes a recipe that of the conventional network."""
  config.ops = ConfigDict({"family": "standard"})


def runlocal_texts(name: str) -> Callable[[ConfigDict], None]:
  """Returns the like of `runlocal` for language models, on texts that are made here."""

  def variant(config: ConfigDict) -> None:
    decoder, labelled = config.objective.name == "causal_lm", config.objective.name == "text"
    config.model = ConfigDict({"name": "gpt2_tiny" if decoder else "bert_tiny", "num_classes": 0})
    config.model.update(width=64, mlp_dim=128, context_length=128, num_classes=2 * labelled)
    config.init = ""
    config.data.update(name=name, text="text", test_split="test[:500]", batch_size=32)
    config.data.train_split = "train" if labelled else "unlabelled[:4000]"
    config.data.tokenizer = "reviews/decoder" if decoder else "reviews"
    config.data.max_length = 64 if decoder else 0
    config.optimizer.update(lr=2e-3, warmup_steps=30)
    config.steps, config.log_every = 300, 10
    config.eval_every = config.checkpoint_every = 100

  return variant


def augment() -> dict:
  """Returns the defaults of the augmentation of training pictures."""
  return {
    "crop": "none",  # none, shift (by an eighth of the side) or random_resized
    "scale": (0.08, 1.0),  # share of the picture's area in a random crop
    "flip": 0.0,  # probability of a horizontal flip
    "policy": "none",  # none, rand_augment or trivial_augment_wide
    "policy_operations": 2,  # of rand_augment
    "policy_magnitude": 10,  # of rand_augment, 0 to 30
    "erase": 0.0,  # probability of random erasing with a black box
    "mixup": 0.0,  # alpha of mixup, the blend of two pictures; 0: off
    "cutmix": 0.0,  # alpha of cutmix, a box from another picture; 0: off
    "repeats": 1,  # variations of each picture in a row
  }


def optimizer() -> dict:
  """Returns the defaults of the optimiser."""
  return {
    "name": "adamw",  # adamw, adam or sgd
    "lr": 1e-3,
    # cosine or linear (by step, to 0), cosine_epochs (by epoch), step_epochs (a tenth every 30
    # epochs) or constant
    "schedule": "cosine",
    "warmup_steps": 0,  # linear, from 0.01 x lr; from 0 with the schedule linear
    "decay_steps": 0,  # of constant: half a cosine to 0 in the last steps
    "weight_decay": 0.0,
    "decay_rules": (),  # (regular expression, rate); the first that matches a path decides
    "bias_decay": 0.0,  # additional, of biases that the ops keep (use_bias=True)
    "b_decay": 0.0,  # draws a learned B (ops.learn_b=True) towards 2
    "agc": 0.01,  # adaptive gradient clipping; 0: off
    "clip_norm": 0.0,  # global-norm clipping; 0: off
    "b1": 0.9,
    "b2": 0.999,
    "eps": 1e-8,
    "momentum": 0.9,  # of sgd
    "b_schedule": {  # linear schedule of B for networks whose ops have learn_b=True
      "start": 1.0,
      "end": 2.0,
      "steps": 0,  # 0: off, B is fixed or learned
    },
  }
