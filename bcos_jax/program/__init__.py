"""Any function that JAX can trace: typed equations, a certificate, W(x) and B-cosification."""

from .any_network import explain as explain
from .bcosified import BcosifiedProgram as BcosifiedProgram
from .bcosified import bcosify_program as bcosify_program
from .certificate import Certificate as Certificate
from .closed_form import calibrate as calibrate
from .explaining import dynamic_map as dynamic_map
from .explaining import explain_program as explain_program
from .faces import function_of as function_of
from .faces import network_function as network_function
from .networks import ProgramNetwork as ProgramNetwork
from .networks import as_network as as_network
from .networks import factory as factory
from .program import Program as Program
from .program import trace as trace
from .rules import Case as Case
from .rules import Typing as Typing
from .rules import affine as affine
from .rules import gate as gate
from .rules import makes_weight as makes_weight
from .rules import rule as rule
from .rules import selection as selection
from .values import Place as Place
from .values import ValueKind as ValueKind
