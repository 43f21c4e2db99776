"""The verb that prints what makes a shell complete command lines: completion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from configs.recipe import suggest
from lra.cli.data import known_names
from lra.cli.overview import summaries as verb_summaries
from lra.cli.parsing import FlagSummary, summaries
from lra.errors import UsageError

_FILES = ("results", "out", "data", "source_dir", "preview", "export", "predictions")
"""Flags that name files or folders."""
_NAMES = {"tasks": "tasks", "task": "tasks", "models": "models", "protocol": "protocols"}
"""Flags that take tasks, models or protocols."""
_GRID = ("run", "prepare", "bench")
"""Verbs whose --tasks and --models take `all` too."""
_LIST, _ONE, _PATH, _ANY, _SWITCH = "list", "one", "path", "any", "switch"
"""What a flag takes: names with commas, one of some names, a file or folder, anything, or nothing."""


@dataclass(frozen=True)
class _Word:
    """A flag, or what a verb takes without one."""

    name: str
    """'' for what is no flag."""
    text: str
    kind: str
    values: tuple[str, ...] = ()
    repeated: bool = False


def define(values: Any) -> None:
    """`completion` has no flags."""


def arguments(values: Any) -> None:
    """`completion` has no options."""


def completion(options: None, names: Sequence[str]) -> int:
    """Prints a script by which a shell completes verbs, flags, tasks, models, protocols and other fixed values.

    Install it with one line, then start a new shell:

      bash  lra completion bash > ~/.lra.bash && echo 'source ~/.lra.bash' >> ~/.bashrc
      zsh   lra completion zsh > ~/.lra.zsh && echo 'source ~/.lra.zsh' >> ~/.zshrc   (after the line with compinit)
      fish  lra completion fish > ~/.config/fish/conf.d/lra.fish

    It completes `lra` and `python run.py`; in bash the latter only where no completion of `python` is set already.
    The script is plain text and starts no Python. Print it again after an update, which may bring new names.
    """
    if len(names) != 1:
        raise UsageError(f"completion takes one of {', '.join(_SHELLS)}")
    if names[0] not in _SHELLS:
        raise UsageError(suggest("shell", names[0], _SHELLS))
    print(_SHELLS[names[0]](_verbs()), end="")
    return 0


def _verbs() -> dict[str, list[_Word]]:
    """What each verb takes."""
    from lra.cli.main import verbs

    known = known_names()
    bare = {
        "list": _Word("", "what to list", _ONE, tuple(known)),
        "completion": _Word("", "shell", _ONE, tuple(_SHELLS)),
        "compare": _Word("", "model", _ONE, tuple(known["models"])),
        "show": _Word("", "record", _PATH),
    }
    found = {}
    for name, verb in verbs().items():
        words = [_word(name, flag, known) for flag in summaries(verb.define)]
        found[name] = [*words, *([bare[name]] if name in bare else [])]
    return found


def _word(verb: str, flag: FlagSummary, known: dict[str, list[str]]) -> _Word:
    values = flag.choices
    if flag.name in _NAMES:
        values = tuple(known[_NAMES[flag.name]]) + (("all",) if flag.several and verb in _GRID else ())
    if flag.switch:
        kind = _SWITCH
    elif flag.name in _FILES:
        kind = _PATH
    elif values:
        kind = _LIST if flag.several else _ONE
    else:
        kind = _ANY
    return _Word(flag.name, flag.text, kind, values, flag.repeated)


def _bash(verbs: dict[str, list[_Word]]) -> str:
    flags = [f"    {name}) flags='{' '.join(_flag_words(words))}' ;;" for name, words in verbs.items()]
    values: dict[str, list[str]] = {}
    for name, words in verbs.items():
        bare = any(not word.name for word in words)  # then what follows a flag of any value must not be taken for it
        for word in words:
            if word.kind != _SWITCH and (word.kind != _ANY or bare):
                given = f" values='{' '.join(word.values)}'" if word.values else ""
                key = f"{name} --{word.name}" if word.name else f"{name} "
                values.setdefault(f"kind={word.kind}{given}", []).append(f"'{key}'")
    cases = [f"    {'|'.join(keys)})\n      {what} ;;" for what, keys in values.items()]
    return _BASH % {"verbs": " ".join(verbs), "flags": "\n".join(flags), "values": "\n".join(cases)}


def _flag_words(words: Iterable[_Word]) -> list[str]:
    """The flags as bash offers them: '--name=' where a value follows."""
    found = []
    for word in words:
        if word.name:
            found += [f"--{word.name}", f"--no{word.name}"] if word.kind == _SWITCH else [f"--{word.name}="]
    return [*found, "--help"]


_BASH = """\
# Completion of lra and run.py for bash 4 and later; made by `lra completion bash`.

_lra_flags() {
  case $1 in
%(flags)s
  esac
}

_lra_values() {
  case "$1 $2" in
%(values)s
  esac
}

# Completes a command line whose verb, if it has one, is word number $1.
_lra_complete() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} verb=${COMP_WORDS[$1]}
  local flag= start= flags= kind= values= value
  COMPREPLY=()
  if ((COMP_CWORD == $1)) && [[ $word != -* ]]; then
    COMPREPLY=($(compgen -W '%(verbs)s' -- "$word"))
    return
  fi
  [[ $verb != -* ]] || verb=run
  if [[ $word == --*=* ]]; then
    flag=${word%%%%=*} start=${word%%%%=*}= word=${word#*=}
  elif [[ $word == = ]]; then
    flag=$before word=
  elif [[ $before == = ]]; then
    flag=${COMP_WORDS[COMP_CWORD-2]}
  elif [[ $word == -* ]]; then
    _lra_flags "$verb"
    ((COMP_CWORD == $1)) && flags+=' --version'
    COMPREPLY=($(compgen -W "$flags" -- "$word"))
    [[ ${COMPREPLY[0]} != *= ]] || compopt -o nospace 2> /dev/null
    return
  fi
  if [[ $flag ]]; then
    _lra_values "$verb" "$flag"
  else
    _lra_values "$verb" "$before"
    [[ $kind ]] || _lra_values "$verb" ''
  fi
  if [[ $kind == list || $kind == path ]]; then
    start+=${word%%"${word##*,}"}
    word=${word##*,}
  fi
  case $kind in
    list | one)
      for value in $values; do
        [[ $value != "$word"* || ,$start == *[,=]$value,* ]] || COMPREPLY+=("$start$value")
      done
      [[ $kind == one ]] || compopt -o nospace 2> /dev/null ;;
    path)
      compopt -o filenames 2> /dev/null
      mapfile -t COMPREPLY < <(compgen -P "$start" -f -- "$word") ;;
  esac
}

_lra() {
  _lra_complete 1
}

_lra_python() {
  COMPREPLY=()
  [[ ${COMP_WORDS[1]##*/} != run.py ]] || ((COMP_CWORD < 2)) || _lra_complete 2
}

complete -F _lra lra run.py
for _lra_command in python python3; do
  complete -p $_lra_command &> /dev/null || complete -o bashdefault -o default -F _lra_python $_lra_command
done
unset _lra_command
"""


def _zsh(verbs: dict[str, list[_Word]]) -> str:
    described = verb_summaries()
    names = [f"    {_quoted(f'{name}:{described[name]}')}" for name in verbs]
    cases = []
    for name, words in verbs.items():
        specs = ["'--help[list the flags]'", *(spec for word in words for spec in _zsh_specs(word))]
        cases.append(f"    {name}) _arguments {_CONTINUED.join(specs)} ;;")
    return _ZSH % {"verbs": "\n".join(names), "cases": "\n".join(cases)}


def _zsh_specs(word: _Word) -> list[str]:
    """The word as `_arguments` takes it."""
    text = word.text.translate({ord(c): f"\\{c}" for c in "[]:\\"})
    name = f"--{word.name}"
    if word.kind == _SWITCH:
        off = f"--no{word.name}"
        return [_quoted(f"({off}){name}[{text}]"), _quoted(f"({name}){off}[not: {text}]")]
    values = {
        _LIST: f"_values -s , {word.name} {' '.join(word.values)}",
        _ONE: f"({' '.join(word.values)})",
        _PATH: "_sequence _files" if word.name == "results" else "_files",
        _ANY: " ",
    }[word.kind]
    if not word.name:
        return [_quoted(f"*:{text}:{values}")]
    return [_quoted(f"{'*' if word.repeated else ''}{name}=[{text}]:{word.name}:{values}")]


def _quoted(text: str) -> str:
    """A word in single quotes, which zsh takes as it stands."""
    escaped = text.replace("'", "'\\''")
    return f"'{escaped}'"


_CONTINUED = " \\\n      "
_ZSH = """\
# Completion of lra and run.py for zsh; made by `lra completion zsh`.

_lra() {
  local verb=run
  local -a verbs=(
%(verbs)s
  )
  if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then
    _describe verb verbs
    return
  fi
  if [[ $words[2] != -* ]]; then
    verb=$words[2]
    shift words
    (( CURRENT-- ))
  fi
  case $verb in
%(cases)s
  esac
}

_lra_python() {
  if (( CURRENT > 2 )) && [[ ${words[2]:t} == run.py ]]; then
    shift words
    (( CURRENT-- ))
    _lra
  elif (( $+functions[_python] )); then
    _python "$@"
  else
    _default
  fi
}

compdef _lra lra run.py
compdef _lra_python python python3
"""


def _fish(verbs: dict[str, list[_Word]]) -> str:
    described = verb_summaries()
    lines = [
        f"    complete -c $command -n __lra_at_verb -f -a {name} -d {_fish_quoted(described[name])}" for name in verbs
    ]
    of: dict[_Word, list[str]] = {}
    for name, words in verbs.items():
        for word in words:
            of.setdefault(word, []).append(name)
    for word, names in of.items():
        condition = f"-n '__lra_is {' '.join(names)}'"
        lines += [f"    complete -c $command {condition} {part}" for part in _fish_parts(word)]
    return _FISH % {"complete": "\n".join(lines)}


def _fish_parts(word: _Word) -> list[str]:
    """The arguments of `complete` that describe the word."""
    text = f"-d {_fish_quoted(word.text)}"
    if word.kind == _SWITCH:
        return [f"-l {word.name} {text}", f"-l no{word.name} -d {_fish_quoted(f'not: {word.text}')}"]
    values = {
        _LIST: f"-x -a '(__lra_list {' '.join(word.values)})'",
        _ONE: f"-x -a '{' '.join(word.values)}'",
        _PATH: "-r -F",
        _ANY: "-x",
    }[word.kind]
    if not word.name:
        return ["-F" if word.kind == _PATH else f"-f -a '{' '.join(word.values)}'"]
    return [f"-l {word.name} {values} {text}"]


def _fish_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


_FISH = """\
# Completion of lra and run.py for fish 3 and later; made by `lra completion fish`.

# The words after the program, up to the one that is completed; fails if the command is another one of Python.
function __lra_words
    set -l words (commandline -opc)
    if string match -qr 'python[0-9.]*$' -- $words[1]
        set -e words[1]
        string match -qr '(^|/)run[.]py$' -- $words[1]; or return 1
    end
    set -e words[1]
    set -q words[1]; and printf '%%s\\n' $words
    return 0
end

function __lra_at_verb
    set -l words (__lra_words); or return 1
    test (count $words) -eq 0
end

# Whether the verb is one of the arguments; without one it is run.
function __lra_is
    set -l words (__lra_words); or return 1
    test -n "$words[1]"; or set words run
    string match -q -- '-*' $words[1]; and set words run
    contains -- $words[1] $argv
end

# The arguments that a list with commas does not have yet, each behind what it has.
function __lra_list
    set -l before (commandline -ct | string replace -r '^--[^=]*=' '' | string replace -r '[^,]*$' '')
    for name in $argv
        string match -q "*,$name,*" -- ",$before"; or echo $before$name
    end
end

complete -c lra -f
for command in lra run.py python python3
%(complete)s
end
"""

_SHELLS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
