"""Alignment of a B-cos student with a frozen vision transformer, without labels (ALOE).

  bcos-jax convert facebook/dinov3-vitl16-pretrain-lvd1689m bundles/dinov3_vitl16
  bcos-jax train --config=align_vit:dinov3_l --config.data.folder=pictures --workdir=runs/dinov3_l

The student has the teacher's blocks behind a convolutional stem, which starts at random; tokens
behind three blocks and the pooled features are compared by their cosines. 170,000 steps of 1024
pictures (YFCC15M there). Published is one block earlier each: --config.objective.depths=published.
The authors call the method patent pending and license their code for non-commercial use; this is an
independent implementation. On one machine: `align_vit:runlocal` with a small transformer's bundle.
"""

from ml_collections import ConfigDict

from bcos_jax.configs import common

# Teacher, student, side of their pictures, side of the teacher's if it is another.
NETWORKS = {
  "dinov3_s": ("dinov3_vits16", "aloe_dinov3_vits16", 224, 0),
  "dinov3_b": ("dinov3_vitb16", "aloe_dinov3_vitb16", 224, 0),
  "dinov3_l": ("dinov3_vitl16", "aloe_dinov3_vitl16", 224, 0),
  "siglip2_b": ("siglip2_base_patch16_224", "aloe_siglip2_base_patch16_224", 224, 0),
  "siglip2_l": ("siglip2_large_patch16_256", "aloe_siglip2_large_patch16_256", 256, 0),
  "siglip2_so400m": ("siglip2_so400m_patch14_384", "aloe_siglip2_so400m_patch16_432", 432, 384),
  "vit_b": ("vit_base_patch16_224", "aloe_vit_base_patch16_224", 224, 0),
}


def get_config() -> ConfigDict:
  """Returns the recipe of DINOv3-B."""
  config = common.get_config()
  config.objective.name = "align"
  config.ops = ConfigDict({"family": "aloe", "dtype": "bfloat16"})
  config.data.update(batch_size=1024, workers=16, damaged="skip")
  config.data.update(unlabelled=True, held_out=0.01)
  config.data.augment.update(crop="random_resized", flip=0.5)
  config.steps, config.log_every, config.eval_every = 170_000, 100, 1000
  config.checkpoint_every, config.keep_every, config.best = 1000, 20_000, True
  config.optimizer.update(name="adamw", lr=3e-4, schedule="constant", agc=0.0, clip_norm=1.0)
  config.optimizer.update(warmup_steps=5000, decay_steps=30_000)
  _networks(config, "dinov3_b")
  return config


def _networks(config: ConfigDict, name: str) -> None:
  teacher, student, side, other = NETWORKS[name]
  config.model = ConfigDict({"name": student, "num_classes": 0})
  config.redraw = ("embeddings/stem", "embeddings/patch_embedding")
  config.objective.update(teacher=f"bundles/{teacher}", teacher_model=teacher, teacher_size=other)
  config.data.update(image_size=side, resize=side * 8 // 7)


VARIANTS = {
  "runlocal": common.runlocal("vitc_tiny"),
  **{name: lambda config, n=name: _networks(config, n) for name in NETWORKS},
}
