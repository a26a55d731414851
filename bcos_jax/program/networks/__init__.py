"""Networks of other libraries as networks of this package: trained, saved, explained as its own."""

from .adopting import as_network as as_network
from .factories import factory as factory
from .module import ProgramNetwork as ProgramNetwork
