"""Adversarial attacks: small changes that turn a network's prediction, or its explanation.

Attacks climb a loss of the network's logits for the true class, in colours: the network encodes
every changed picture itself, so that all of its channels belong to a picture. What is
differentiated is the network as it predicts, its dynamic weights included, and never explanation
mode, whose derivative is the linear map that was applied rather than the slope of the output,
unless `apgd` is asked for that.

    cross_entropy  -log softmax(logits)[true class], as published. It is the same for every
                   family, also for B-cos networks, which are trained with a binary cross-entropy
                   per class: both predict the largest logit, a constant logit bias changes
                   neither, and the binary one would also reward lower logits that change no
                   prediction.
    margin         the largest other logit less that of the true class (arXiv 1608.04644, section
                   V-A, without its threshold): above 0 exactly where the prediction is wrong.
    ratio          the margin over the largest logit less the third largest (arXiv 2003.01690,
                   equation 6, DLR): the same at every scale of the logits.

An attack that finds nothing proves nothing. Logits far apart saturate the cross-entropy, whose
gradient then vanishes in float32 although a better attack exists (gradient masking,
arXiv 1802.00420); logits close together make it lower the true class and raise all others alike,
rather than the nearest. Logits of B-cos networks have scales of their own, and slopes that vanish
where no unit is aligned (`adaptive`). `adapted_attacks` tries what is known against this, with a
search that needs no gradient, and `worst_case` counts a picture as withstood only if all failed.
`manipulate` attacks explanations, and keeps predictions.
"""

from .adaptive import SLOPES, apgd
from .ensemble import WorstCase, adapted_attacks, worst_case
from .gradient import fgsm, pgd
from .manipulation import MAPS, manipulate, random_change
from .square import square_attack

__all__ = [
  "MAPS",
  "SLOPES",
  "WorstCase",
  "adapted_attacks",
  "apgd",
  "fgsm",
  "manipulate",
  "pgd",
  "random_change",
  "square_attack",
  "worst_case",
]
