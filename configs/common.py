"""The fields of every recipe and their defaults, in one place.

A recipe module has `get_config() -> ConfigDict` and a table `VARIANTS` of functions that change
such a config. `--config=NAME:variant` picks one, `--config.a.b=value` changes single fields.
Durations are steps, or text such as "90 epochs".
"""

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
      "ops": {  # layer family and any of its fields
        "family": "standard",
      },
      "init": "",  # bundle folder to start from; "" starts at random
      "fold_mean": True,  # of batch norms into their biases, when `init` is B-cosified
      "data": {
        "name": "",  # TFDS name
        "data_dir": "",  # "" for the user's cache folder (or $BCOS_JAX_DATA_DIR)
        "train_split": "train",
        "test_split": "test",
        "batch_size": 64,  # of all devices together
        "eval_batch_size": 256,
        "image_size": 224,
        "resize": 256,  # shorter side before the central crop; 0: straight to image_size
        "augment": "none",
        "workers": 0,  # decoding processes; 0 decodes in threads
        "cache": False,  # keep decoded images in memory
      },
      "steps": 0,
      "loss": {
        "name": "uniform_off_label_bce",
        "eval_name": "bce",
        "smoothing": 0.0,  # of bce and cross_entropy
        "off": -1.0,  # least target of uniform_off_label_bce; -1: one over the classes
      },
      "optimizer": optimizer(),
      "eval_every": 0,  # 0: only at the end
      "log_every": 10,
      "checkpoint_every": 0,  # 0: only at the end and when interrupted
      "mesh": {  # axis sizes; -1 takes the remaining devices
        "data": -1,
        "fsdp": 1,
      },
      "layout": (),  # (regular expression, mesh axes by dimension) of arrays to split
    }
  )


def optimizer() -> dict:
  """Returns the defaults of the optimiser."""
  return {
    "name": "adamw",  # adamw, adam or sgd
    "lr": 1e-3,
    "schedule": "cosine",  # cosine (by step), cosine_epochs (by epoch) or constant
    "warmup_steps": 0,  # linear, from 0.01 x lr
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
