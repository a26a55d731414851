"""B-cosification and fine-tuning of a language model in one run (arXiv 2502.12992).

  bcos-jax convert hub/bert-base-uncased bundles/bert --num_classes 2
  bcos-jax train --config=bcosify_lm:bert,imdb --config.init=bundles/bert --workdir=runs/imdb
  bcos-jax explain runs/imdb/bundle --text "not funny at all"

Published for all: 5 epochs of batches of 16, AdamW without decay, a tenth of the steps of linear
warm-up, linear decay, the best of the evaluations every 1000 steps; 2e-5, or 3e-5 for AG News. B
is 2 in the authors' working scripts for IMDB and AG News, 1.5 in the one that they released.
Validation is half of the test set; the other half is untouched. `conventional` leaves the network
as it is.
"""

from ml_collections import ConfigDict

from bcos_jax.configs import common

NETWORKS = {"bert": "bert_base", "distilbert": "distilbert_base", "roberta": "roberta_base"}
# TFDS name, column of texts, classes, learning rate; without a name, --config.data.folder names a
# Hugging Face data set on disk or tables.
TASKS = {
  "ag_news": ("ag_news_subset", "description", 4, 3e-5),
  "imdb": ("imdb_reviews", "text", 2, 2e-5),
  "hatexplain": ("", "text", 2, 2e-5),
  "sst2_csv": ("", "sentence", 2, 2e-5),
}


def get_config() -> ConfigDict:
  """Returns the recipe of BERT on IMDB."""
  config = common.language_model()
  config.objective.name = "text"
  config.ops = ConfigDict({"family": "bcos_lm", "b": 1.5})
  config.loss.update(name="bce", eval_name="bce")
  _network(config, "bert")
  _task(config, "imdb")
  return config


def _network(config: ConfigDict, name: str) -> None:
  config.model.name, config.init = NETWORKS[name], f"bundles/{name}"


def _task(config: ConfigDict, task: str) -> None:
  name, text, classes, lr = TASKS[task]
  config.data.update(name=name, text=text, truncate=True)
  config.data.test_split = "test[:50%]" if name else "validation"
  config.model.num_classes, config.optimizer.lr = classes, lr


VARIANTS = {
  **{name: lambda config, n=name: _network(config, n) for name in NETWORKS},
  **{name: lambda config, n=name: _task(config, n) for name in TASKS},
  "conventional": common.conventional,
  "runlocal": common.runlocal_texts("reviews"),
}
