"""The command `check`: a certificate that a network's explanations are exact."""

from __future__ import annotations

from collections.abc import Callable

from .command import Commands, add_command, add_network


def add_check(commands: Commands) -> None:
  command = add_command(
    commands,
    "check",
    _check,
    "prove that a network is affine in its input once its dynamic weights are held",
    "bcos-jax check runs/quickstart/bcosified",
  )
  add_network(command)
  command.add_argument("--sources", action="store_true", help="list what is added on the way")
  command.add_argument(
    "--no_transpose", action="store_true", help="leave out the second witness, which computes"
  )


def _check(options, _):
  import bcos_jax

  network = bcos_jax.load(options.bundle, download=options.download)
  check(network, transpose=not options.no_transpose, sources=options.sources)


def check(
  network,
  *,
  transpose: bool = True,
  sources: bool = False,
  say: Callable[[str], object] = print,
) -> None:
  """Prints the certificate of a network.

  Args:
    network: What `bcos_jax.load` returns.
    transpose: Whether `jax.linear_transpose` is asked as well, at a random input.
    sources: Whether each constant that is added to the signal is listed.
    say: Function that prints one line of output.

  Raises:
    InputError: It is not affine, and which equation prevents it; or it reads token ids alone.
  """
  import jax

  from .. import program

  function, example = program.network_function(network.model)
  traced = program.trace(function, network.variables, example)
  inputs = None
  if transpose:
    inputs = jax.random.normal(jax.random.key(0), example.shape, example.dtype)
  certificate = traced.check(network.variables, inputs)
  for line in f"{network.name}: {certificate}".splitlines():
    say(line)
  for source in certificate.sources if sources else ():
    say(f"  {source}")
