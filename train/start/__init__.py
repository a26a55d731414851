"""Initial states of runs: a new network, a bundle, or a network in memory."""

from .bundles import Network as Network
from .bundles import fetch as fetch
from .bundles import finetuned as finetuned
from .bundles import new_head as new_head
from .bundles import open_bundle as open_bundle
from .bundles import provenance_of as provenance_of
from .bundles import without_head as without_head
from .closed_form import calibrated as calibrated
from .closed_form import calibration_of as calibration_of
from .closed_form import check_calibration as check_calibration
from .effects import check_effects as check_effects
from .network import describe as describe
from .network import network as network
from .pictures import check_fields as check_fields
from .texts import tokenizer_for as tokenizer_for
