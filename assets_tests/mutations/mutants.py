"""Mutation testing: check that the tests of a module kill its mutants.

Cosmic Ray generates the mutants. Each runs in a forked child, which imports the mutated source in
place of the module's and runs the module's tests; the working tree is never changed. A surviving
mutant must be listed in `equivalent_mutants.toml` with the reason why no test can kill it.
"""

import argparse
import os
import resource
import signal
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import ndiff
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.operators.provider import OperatorProvider

from dropped_keyword import DropKeyword

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
PACKAGE = ROOT / "platform/tidemill"
GATE_TESTS = [
    "core/test_comparison.py",
    "core/test_gate.py",
    "core/test_gate_recovery.py",
    "core/test_gate_reference.py",
    "core/test_loss_differences.py",
]
STATE_TESTS = ["serving/test_model_slot.py", "serving/test_ledger_follower.py"]
TESTS = {
    "core/windows": ["core/test_windows.py"],
    "core/plans": ["core/test_plans.py", "cycle/test_planning.py"],
    "core/gate": GATE_TESTS,
    "core/comparison": GATE_TESTS,
    "core/loss_differences": GATE_TESTS[::-1],
    "core/ledger": ["core/test_ledger.py", "cycle/test_ledger_writers.py"],
    "serving/model_state": STATE_TESTS,
    "serving/loading": STATE_TESTS,
}
"""The mutated modules of `tidemill`, and the tests that must kill the mutants, fastest first."""
CPU_SECONDS = 90
"""A child's CPU limit, which means an endless loop: a module's tests take a sixth of it."""
# Preloaded modules cannot be rewritten.
_NO_REWRITE_WARNINGS = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
OPERATORS = [
    *(f"ReplaceComparisonOperator_{pair}" for pair in (
        "Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt",
        "Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is",
    )),
    *(f"ReplaceBinaryOperator_{pair}" for pair in (
        "Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_Mul",
    )),
    "ReplaceUnaryOperator_Delete_Not", "ReplaceUnaryOperator_Delete_USub",
    "AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr",
    "ReplaceOrWithAnd", "ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "NumberReplacer",
    "ZeroIterationForLoop",
]  # fmt: skip
"""Cosmic Ray's operators, except those the type checker rejects or that duplicate another."""


@dataclass(frozen=True, order=True)
class Mutant:
    """One change: the original and the mutated lines of a module.

    `number` distinguishes equal changes, counted from 1.
    """

    module: str
    original: str
    mutated: str
    number: int = 1

    def __str__(self) -> str:
        return f"{self.module}.py ({self.number}): {self.original}  →  {self.mutated}"


def generate_mutants(module: str) -> Iterator[tuple[Mutant, str]]:
    """Every mutant of a module with its source. Decorators are not mutated."""
    source = (PACKAGE / f"{module}.py").read_text()
    occurrences: Counter[tuple[str, str]] = Counter()
    sources = {source}
    for operator in [*map(_operator, OPERATORS), DropKeyword()]:
        tree = get_ast(source)
        positions = sum(len([*operator.mutation_positions(node)]) for node in ast_nodes(tree))
        for occurrence in range(positions):
            mutated = mutate_code(source, operator, occurrence)
            if mutated is None or mutated in sources:
                continue
            sources.add(mutated)
            changed = [line for line in ndiff(source.splitlines(), mutated.splitlines())
                       if line[0] in "-+"]  # fmt: skip
            original, replaced = (
                " ".join(line[1:].strip() for line in changed if line[0] == sign) for sign in "-+"
            )
            if not original.startswith("@"):
                occurrences[original, replaced] += 1
                yield Mutant(module, original, replaced, occurrences[original, replaced]), mutated


def _operator(name: str) -> Operator:
    operator: Operator = OperatorProvider()[name]()
    return operator


class MutantLoader(MetaPathFinder, SourceLoader):
    """Imports one module from another source."""

    def __init__(self, name: str, source: str) -> None:
        self._name, self._source = name, source.encode()

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return spec_from_loader(name, self) if name == self._name else None

    def get_filename(self, name: str) -> str:
        return f"<mutant of {name}>"

    def get_data(self, path: str) -> bytes:
        return self._source


def start_tests(module: str, source: str) -> int:
    """Run the module's tests with this source in a child process; its pid.

    The child exits with pytest's exit code, or is killed by a signal.
    """
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 10))
        devnull = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(devnull, stream)
        sys.meta_path.insert(0, MutantLoader(f"tidemill.{module.replace('/', '.')}", source))
        tests = [str(ROOT / "assets_tests" / test) for test in TESTS[module]]
        code = pytest.main(
            ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", *_NO_REWRITE_WARNINGS, *tests]
        )
    finally:
        os._exit(code)


def exit_codes(module: str, sources: Sequence[str], max_parallel: int) -> list[int]:
    """The exit codes of the module's tests with each of these sources."""
    codes, running = [0] * len(sources), dict[int, int]()
    for number in range(len(sources) + max_parallel):
        if number >= max_parallel and running:
            child, status = os.wait()
            codes[running.pop(child)] = os.waitstatus_to_exitcode(status)
        if number < len(sources):
            running[start_tests(module, sources[number])] = number
    return codes


def is_killed(code: int) -> bool:
    """Whether the tests failed, could not import the mutant, or did not end."""
    exits = pytest.ExitCode
    failed = (exits.TESTS_FAILED, exits.INTERRUPTED, exits.USAGE_ERROR, -signal.SIGXCPU)
    assert code in (exits.OK, *failed), f"a child ended with {code}"
    return code != exits.OK


def preload() -> None:
    """Import the libraries that a child needs, and make Hypothesis deterministic."""
    sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "assets_tests")]
    own_paths = (str(ROOT / "platform"), str(ROOT / "assets_tests"))
    before = set(sys.modules)
    from cycle import memory_model  # noqa: F401
    from support.models import harness  # noqa: F401

    # A child must import the project's own modules again, one of them from the mutated source.
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(own_paths):
            del sys.modules[name]
    hypothesis.settings.register_profile(
        "mutants",
        derandomize=True,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.settings.load_profile("mutants")


def equivalent_mutants() -> dict[Mutant, str]:
    """The mutants of `equivalent_mutants.toml`, with the reasons why no test can kill them."""
    text = (FOLDER / "equivalent_mutants.toml").read_text()
    return {
        Mutant(each["module"], each["original"], each["mutated"], each.get("number", 1)): each[
            "reason"
        ]
        for each in tomllib.loads(text).get("mutant", [])
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", default=[*TESTS], metavar="MODULE")
    parser.add_argument("-n", type=int, default=2, help="number of parallel processes")
    args = parser.parse_args()
    preload()
    equivalent = {mutant for mutant in equivalent_mutants() if mutant.module in args.modules}
    total, survivors = 0, set[Mutant]()
    for module in args.modules:
        (unmutated_code,) = exit_codes(module, [(PACKAGE / f"{module}.py").read_text()], 1)
        if is_killed(unmutated_code):
            print(f"The tests of {module}.py fail on the unmutated code.")
            return 2
        generated = [*generate_mutants(module)]
        codes = exit_codes(module, [source for _, source in generated], args.n)
        survived = {m for (m, _), code in zip(generated, codes, strict=True) if not is_killed(code)}
        total, survivors = total + len(generated), survivors | survived
        print(
            f"{module}.py: {len(generated) - len(survived)} of {len(generated)} mutants killed",
            flush=True,
        )
        for mutant in sorted(survived - equivalent):
            print(f"  survived: {mutant}", flush=True)
    for mutant in sorted(equivalent - survivors):
        print(f"in equivalent_mutants.toml, but killed or no longer generated: {mutant}")
    unexplained = len(survivors - equivalent)
    print(
        f"{total} mutants: {total - len(survivors)} killed, "
        f"{len(survivors) - unexplained} equivalent, {unexplained} survived"
    )
    return int(survivors != equivalent)


if __name__ == "__main__":
    sys.exit(main())
