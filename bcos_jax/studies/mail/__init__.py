"""Mail, spam or not: a real encoder as a conventional and as a B-cos classifier."""

from .lab import MailLab
from .mails import NAME as DATASET
from .study import study

__all__ = ["DATASET", "MailLab", "study"]
