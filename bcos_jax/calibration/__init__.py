"""Calibration: B-cosification in closed form, without labels and without training."""

from .closed_form import calibrate as calibrate
from .fit import Effort as Effort
from .inputs import FEWEST as FEWEST
from .inputs import chosen as chosen
from .report import Fitted as Fitted
from .report import Report as Report
from .report import record as record
from .settings import Calibration as Calibration
