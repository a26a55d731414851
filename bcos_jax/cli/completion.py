"""The command `completion`: a script that completes this command line in bash or zsh."""

from __future__ import annotations

import argparse
import shlex

from .command import Commands, add_command

_SCRIPT = """\
# Completes bcos-jax: commands, options and their values; file names everywhere else.
_bcos_jax() {{
  local command="${{COMP_WORDS[1]}}" current="${{COMP_WORDS[COMP_CWORD]}}"
  local previous="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    words={commands}
  elif [[ "$previous" == "=" ]]; then
    previous="${{COMP_WORDS[COMP_CWORD-2]}}"
  elif [[ "$current" == "=" ]]; then
    current=""
  fi
  case "$command $previous" in
{values}
  esac
  if [[ "$current" == -* ]]; then
    case "$command" in
{options}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
{zsh}complete -o default -F _bcos_jax bcos-jax
"""
_ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"


def add_completion(commands: Commands) -> None:
  command = add_command(
    commands,
    "completion",
    _completion,
    "print a script that completes this command line in a shell",
    'eval "$(bcos-jax completion bash)", in ~/.bashrc',
  )
  command.add_argument("shell", choices=["bash", "zsh"], help="the shell")
  command.set_defaults(completed=commands)


def _completion(options, _):
  print(script(options.completed.choices, options.shell), end="")


def script(commands: dict[str, argparse.ArgumentParser], shell: str) -> str:
  """Returns a script that defines and registers the completion.

  Args:
    commands: The parser of every command, by its name.
    shell: 'bash' or 'zsh'; zsh runs the script of bash by its own emulation.
  """
  options, values = [], []
  for name, parser in commands.items():
    actions = parser._actions  # argparse has no public list of them
    flags = [flag for action in actions for flag in action.option_strings]
    options.append(f"      {name}) words={shlex.quote(' '.join(flags))} ;;")
    for action in actions:
      words = shlex.quote(" ".join(map(str, action.choices or ())))
      if action.choices and action.option_strings:
        cases = "|".join(f"{shlex.quote(f'{name} {flag}')}" for flag in action.option_strings)
        values.append(f"    {cases}) words={words} ;;")
      elif action.choices:
        values.append(f"    {shlex.quote(f'{name} {name}')}) words={words} ;;")
  return _SCRIPT.format(
    commands=shlex.quote(" ".join(commands)),
    options="\n".join(options),
    values="\n".join(values),
    zsh=_ZSH if shell == "zsh" else "",
  )
