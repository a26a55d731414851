"""Explanations of a B-cosified language model: a study of agreement with deciding words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import dataclasses

import numpy as np

from .. import TextReader, metrics, render
from ..attribution import text as methods
from ..train.loop import TrainResult
from .study import Findings
from .tables import Table
from .text_lab import Marked, TextLab, logits_of, marked_texts

OWN = "B-cos"
EXPONENTS = (1.5, 2.0)
"""Those that were published for encoders."""
RATES = (5e-4, 2e-3)
"""Learning rates of the conventional network: each network has two tries. B-cos has the second."""
MEASURES = {
  "AUPRC": 1,
  "token F1": 1,
  "IoU F1": 1,
  "pointing": 1,
  "comprehensiveness": 1,
  "sufficiency": -1,
}
"""Measure to 1 where high is good, -1 where low is."""
_OF_NETWORK = ("comprehensiveness", "sufficiency")
_REPLACING = (
  "integrated gradients",
  "sequential integrated gradients",
  "occlusion",
  "shapley sampling",
  "kernel shap",
  "lime",
)
"""Methods that put the mask token in the place of others."""

Scored = dict[str, metrics.TextScores]
Key = tuple[str, str]  # explanation, network


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Trained:
  """The two networks that are compared, and what led to them."""

  conventional: TrainResult
  bcosified: TrainResult
  b: float
  validation: Mapping[str, float]


def study(lab: TextLab) -> Findings:
  """Compares a B-cosified BERT's explanations with all post-hoc methods, on two networks."""
  trained = _trained(lab)
  readers = {
    "conventional": lab.reader(trained.conventional),
    "B-cosified": lab.reader(trained.bcosified),
  }
  accuracy = {split: _accuracies(lab, readers, split) for split in ("test", "shifted")}
  texts, pairs = _material(lab, readers)
  scored: dict[Key, Scored] = {}
  for key, explain in _explainers(lab, readers).items():
    scored[key] = _score(readers[key[1]], explain, texts, pairs, oracle=key[0] == OWN)
    values = ", ".join(f"{name} {s.mean:.3f}" for name, s in scored[key].items())
    lab.say(f"  {key[0]}, {key[1]}: {values}")
  return Findings(
    title="Explanations of a B-cosified language model and post-hoc methods, reviews",
    question=_question(lab, trained, len(texts.ids), len(pairs)),
    table=results_table(scored),
    answer=(*_accuracy_answer(trained, accuracy), *comparison(scored)),
    plots={"texts-rationales": ("Agreement with the words that decide (AUPRC)", _bars(scored))},
  )


def _trained(lab: TextLab) -> _Trained:
  tuned = {b: lab.bcosified(b, RATES[-1]) for b in EXPONENTS}
  plain = {lr: lab.conventional(lr) for lr in RATES}
  b, lr = (max(tries, key=lambda k: tries[k].metrics["accuracy"]) for tries in (tuned, plain))
  lab.say(f"  B={b} is best on validation: {lab.keep(tuned[b], 'bcosified')}")
  tries = {f"B-cosified, B={key}": result for key, result in tuned.items()}
  tries |= {f"conventional, rate {key:g}": result for key, result in plain.items()}
  validation = {name: result.metrics["accuracy"] for name, result in tries.items()}
  return _Trained(conventional=plain[lr], bcosified=tuned[b], b=b, validation=validation)


def _accuracies(lab: TextLab, readers: dict[str, TextReader], split: str) -> dict[str, float]:
  dataset = lab.texts(split)
  return {
    name: float(
      np.mean(logits_of(reader, marked_texts(reader, dataset)).argmax(-1) == dataset.labels)
    )
    for name, reader in readers.items()
  }


def _material(lab: TextLab, readers: dict[str, TextReader]) -> tuple[Marked, metrics.TextPairs]:
  """Returns texts that both networks classify rightly, and the conventional network's pairs."""
  reader = readers["conventional"]
  texts = marked_texts(reader, lab.texts())
  logits = {name: logits_of(reader, texts) for name, reader in readers.items()}
  right = np.all([values.argmax(-1) == texts.labels for values in logits.values()], axis=0)
  seen = logits["conventional"]
  if lab.short:  # The networks classify nothing correctly yet: any texts form pairs.
    right[:], seen = True, 9.0 * np.eye(seen.shape[1])[texts.labels]
  rows = np.flatnonzero(right)[: lab.setting.texts]
  pairs = metrics.text_pairs(
    methods.reader_task(reader),
    texts.ids,
    texts.mask,
    seen,
    texts.labels,
    fill=False,
    num_pairs=lab.setting.pairs,
  )
  return without_shared_padding(texts.some(rows)), pairs


def without_shared_padding(texts: Marked) -> Marked:
  """Returns texts without columns that are padding in all of them."""
  longest = int(texts.mask.sum(axis=1).max())
  cut = {
    field.name: getattr(texts, field.name)[:, :longest]
    for field in dataclasses.fields(texts)
    if field.name != "labels"
  }
  return dataclasses.replace(texts, **cut)


def _explainers(lab: TextLab, readers: dict[str, TextReader]) -> dict[Key, Callable]:
  own = readers["B-cosified"]
  found: dict[Key, Callable] = {
    (OWN, "B-cosified"): methods.explain_with(own.model, own.variables, batch_size=50)
  }
  settings = {
    "lime": {"samples": lab.setting.samples},
    "kernel_shap": {"samples": lab.setting.samples},
    "shapley_sampling": {"samples": lab.setting.orders},
    "sequential_integrated_gradients": {"steps": lab.setting.steps},
  }
  for network, reader in readers.items():
    task = methods.reader_task(reader)
    for name in methods.names():
      made = methods.attribute_with(name, task, **settings.get(name, {}))
      found[name.replace("_", " "), network] = made
  return found


def _score(
  reader: TextReader, explain: Callable, texts: Marked, pairs: metrics.TextPairs, *, oracle: bool
) -> Scored:
  task = methods.reader_task(reader)
  scores = np.asarray(explain(texts.ids, texts.mask, texts.labels))
  agreement = (scores, texts.rationales, texts.counted)
  how = metrics.TokenPerturbation.published(keep_special=True, oracle=oracle)
  taken = (task, texts.ids, texts.mask, scores, texts.labels, how)
  return {
    "AUPRC": metrics.rationale_auprc(*agreement),
    "token F1": metrics.rationale_token_f1(*agreement),
    "IoU F1": metrics.rationale_iou_f1(*agreement),
    "pointing": metrics.sequence_pointing_game(explain, pairs),
    "comprehensiveness": metrics.token_comprehensiveness(*taken),
    "sufficiency": metrics.token_sufficiency(*taken),
  }


def results_table(scored: dict[Key, Scored]) -> Table:
  rows: list[tuple] = [
    (name, network, *(s.mean for s in scores.values()))
    for (name, network), scores in scored.items()
  ]
  own = scored[OWN, "B-cosified"]
  for kind in ("random", "oracle"):
    rows.append((kind, "B-cosified", *(getattr(s, kind) for s in own.values())))
  forms = {"explanation": "", "network": "", **dict.fromkeys(MEASURES, ".3f")}
  return Table(forms, rows)


def _question(lab: TextLab, trained: _Trained, texts: int, pairs: int) -> str:
  setting = lab.setting
  return (
    "A BERT of two blocks and 64 channels is pretrained by masked language modelling on made "
    f"reviews ({setting.pretrain} steps of 64 texts), and fine-tuned to tell positive from "
    f"negative ones ({setting.finetune} steps of 32): as it is, and B-cosified (published, B="
    f"{trained.b}). Every post-hoc method explains both networks, the B-cosified one also explains "
    f"itself. Agreement with the words that decide is measured on {texts} test reviews that both "
    "networks classify rightly: AUPRC, and F1 of tokens and of spans (IoU) when as many tokens are "
    f"chosen as are marked. Sequence pointing game: {pairs} pairs of whole reviews, chosen by the "
    "conventional network. Comprehensiveness (high is good) and sufficiency (low is good): "
    "published area over shares of 0.1 to 0.9, special tokens kept; they are losses of a network's "
    "own probability, so rows of one network compare. Oracle: for these two, tokens by the effect "
    f"of masking each alone. LIME and KernelSHAP take {setting.samples} samples a text, Shapley "
    f"sampling {setting.orders} orders, sequential integrated gradients {setting.steps} steps for "
    "each token; other settings are the defaults."
  )


def _accuracy_answer(trained: _Trained, accuracy: dict[str, dict[str, float]]) -> tuple[str, ...]:
  validated = ", ".join(f"{name} {value:.1%}" for name, value in trained.validation.items())
  test, shifted = accuracy["test"], accuracy["shifted"]
  points = 100 * (test["B-cosified"] - test["conventional"])
  return (
    f"Accuracy on the test reviews: conventional {test['conventional']:.1%}, B-cosified "
    f"{test['B-cosified']:.1%} ({points:+.1f} points, after equal steps). Each is the better "
    f"of two tries on validation reviews: {validated}.",
    "Where spurious words go with the other label (`shifted`): conventional "
    f"{shifted['conventional']:.1%}, B-cosified {shifted['B-cosified']:.1%}.",
  )


def comparison(scored: dict[Key, Scored]) -> tuple[str, ...]:
  """States for each measure which methods are not beaten, and by how much on the same texts."""
  own, lines, beaten_by = scored[OWN, "B-cosified"], [], set()
  for measure, sign in MEASURES.items():
    others = {
      key: scores[measure]
      for key, scores in scored.items()
      if key[0] != OWN and (key[1] == "B-cosified" or measure not in _OF_NETWORK)
    }
    mine = own[measure]
    ahead = {key: s for key, s in others.items() if sign * (s.mean - mine.mean) >= 0}
    beaten_by |= {(measure, *key) for key in ahead}
    best = max(others, key=lambda key: sign * others[key].mean)
    of = " of those on the same network" if measure in _OF_NETWORK else ""
    if ahead:
      ranked = sorted(ahead, key=lambda key: -sign * ahead[key].mean)
      said = "behind " + ", ".join(_behind(key, ahead[key], mine) for key in ranked)
    else:
      said = (
        f"ahead of every post-hoc method{of}; the best is {best[0]}, {best[1]} "
        f"({others[best].mean:.3f})"
      )
    lines.append(f"{measure}: B-cos has {mine.mean:.3f}, random {mine.random:.3f}; it is {said}.")
  return (*lines, *reasons(beaten_by))


def reasons(beaten_by: set[tuple[str, str, str]]) -> Iterator[str]:
  """States why B-cos is behind, of (measure, method, network) where a reason is known."""
  if any(key[1:] == ("attn lrp", "B-cosified") for key in beaten_by):
    yield (
      "On a B-cos network AttnLRP would be the network's own explanation if it took attention "
      "weights for constants; it differs in passing a part on through the softmax."
    )
  if any(measure in _OF_NETWORK and method in _REPLACING for measure, method, _ in beaten_by):
    yield (
      f"Of the methods ahead in {' or '.join(_OF_NETWORK)}, {', '.join(_REPLACING)} look at what "
      "the mask token in a word's place does, and so do these measures; B-cos says what words "
      "contributed while all of them were there."
    )


def _behind(key: Key, other: metrics.TextScores, mine: metrics.TextScores) -> str:
  gap = other.scores - mine.scores
  error = gap.std(ddof=1) / len(gap) ** 0.5
  return f"{key[0]}, {key[1]} ({other.mean:.3f}, by {gap.mean():+.3f} ± {error:.3f})"


def _bars(scored: dict[Key, Scored]):
  named = {
    (f"{OWN}, itself" if name == OWN else f"{name}, {network}"): scores["AUPRC"]
    for (name, network), scores in scored.items()
  }
  return render.bars(
    {name: s.mean for name, s in named.items()},
    errors={name: s.standard_error for name, s in named.items()},
    marked=[f"{OWN}, itself"],
    levels={"random scores": scored[OWN, "B-cosified"]["AUPRC"].random},
    x="AUPRC of the words that decide",
  )
