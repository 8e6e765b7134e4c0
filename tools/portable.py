"""Runs pages and tests in turn as other processors would compute them, and says which page or test differs.

    make portable                           all conditions, about ten minutes each on two cores; goes on where it was broken off
    make portable PORTABLE='--only b,c'     some of them; see --help

PyTorch's own kernels, oneDNN's and MKL's each choose by what the processor can do; environment variables take some of it away.
A condition is finished when pages and tests have run to their end; its log and result lie in build/portable. Contributors run
this before they change anything numeric; CI runs the first condition only, which is `make test`.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / 'build' / 'portable'
GOALS = ('notebooks', 'pytest')  # of the Makefile, which says how pages and tests are run


@dataclass(frozen=True)
class Condition:
    "A way of computing."

    letter: str
    what: str
    env: dict = field(default_factory=dict)
    missing: str = ''  # why it cannot be had on this machine


def cpu_flags(text: str) -> set[str]:
    "What a processor can do, from the text of /proc/cpuinfo."
    found = re.search(r'^flags\s*:\s*(.*)$', text, re.M)
    return set(found[1].split()) if found else set()


def conditions(flags: set[str], threads: int) -> list[Condition]:
    "The conditions, with those marked that this machine cannot have."
    known = '' if flags else 'the processor does not say what it can do (no flags in /proc/cpuinfo)'
    avx2 = known or ('' if 'avx2' in flags else 'the processor has no AVX2')
    sse = known or ('' if 'sse4_1' in flags else 'the processor has no SSE4.1')
    units = 'AMX' if 'amx_bf16' in flags else 'AVX512 bfloat16' if 'avx512_bf16' in flags else ''
    without = {'AMX': 'AVX512_CORE_BF16', 'AVX512 bfloat16': 'AVX512_CORE_VNNI', '': ''}[units]
    return [
        Condition('a', 'the machine as it is'),
        Condition('b', 'AVX2 only', dict(ATEN_CPU_CAPABILITY='avx2', ONEDNN_MAX_CPU_ISA='AVX2', MKL_ENABLE_INSTRUCTIONS='AVX2'), avx2),
        Condition('c', 'no vectors beyond SSE4.1', dict(ATEN_CPU_CAPABILITY='default', ONEDNN_MAX_CPU_ISA='SSE41'), sse),
        Condition('d', 'two OpenMP threads', dict(OMP_NUM_THREADS='2'), '' if threads > 1 else 'there is one core only'),
        Condition(
            'e',
            f'without {units or "bfloat16"} units (with them: a)',
            dict(ONEDNN_MAX_CPU_ISA=without),
            '' if units else known or 'the processor has none',
        ),
    ]


def failures(log: str) -> list[str]:
    "The pages and tests that failed, by the last lines of nbdev_test and pytest."
    pages = re.search(r'nbdev Tests Failed On The Following Notebooks:\n=+\n((?:\s+\S+\.ipynb\n?)+)', log)
    tests = re.findall(r'^(?:FAILED|ERROR) (tests/.+?)(?: - .*)?$', log, re.M)
    return sorted({*(pages[1].split() if pages else ()), *tests})


def table(results: dict[str, list[str]], names: dict[str, str]) -> list[str]:
    "Lines: each page or test that failed anywhere, and under which conditions it did."
    if not any(results.values()):
        return ['no page and no test failed under ' + ', '.join(f'({letter}) {names[letter]}' for letter in results)]
    lines = []
    for name in sorted({name for failed in results.values() for name in failed}):
        where = [letter for letter, failed in results.items() if name in failed]
        fine = [letter for letter in results if letter not in where]
        lines.append(f'{name}: fails under {", ".join(where)}' + (f'; runs under {", ".join(fine)}' if fine else ''))
    return lines


def tree() -> str:
    "A fingerprint of all that pages and tests read: tracked files as they are now, and new ones."
    files = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard', '-z'], cwd=ROOT, capture_output=True, check=True).stdout.split(b'\0')
    digest = hashlib.sha256()
    for name in sorted(filter(None, files)):
        path = ROOT / os.fsdecode(name)
        if path.is_file():
            digest.update(name + b'\0' + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def run(condition: Condition, variables: list[str]) -> dict:
    "Pages and tests under a condition; what is printed goes on the screen and into a log."
    log, began, text, codes = FOLDER / f'{condition.letter}.log', time.monotonic(), '', []
    env = {**os.environ, **condition.env}
    with open(log, 'w', encoding='utf-8') as file:
        for goal in GOALS:
            command = ['make', '--no-print-directory', goal, *variables]
            process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for line in process.stdout:
                text += line
                file.write(line)
                if line.startswith(('- Completed', '== ')) or re.match(r'\d+ (passed|failed)|=+ .*(passed|failed)', line):
                    print(f'  ({condition.letter}) {time.monotonic() - began:5.0f} s  {line.rstrip()}', flush=True)
            codes.append(process.wait())
    failed = failures(text)
    if any(codes) and not failed:
        failed = [f'{goal} (see {log.relative_to(ROOT)})' for goal, code in zip(GOALS, codes) if code]
    return dict(failed=failed, seconds=round(time.monotonic() - began))


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', default='', metavar='LETTERS', help='conditions, such as b,c')
    parser.add_argument('--pages', default='', metavar='GLOB', help="pages by name, such as '02*.ipynb'")
    parser.add_argument('--tests', default='', metavar='FILES', help='test files, separated by spaces')
    parser.add_argument('--fresh', action='store_true', help='also run what was finished before on the same files')
    args = parser.parse_args(argv)
    info = Path('/proc/cpuinfo')
    every = conditions(cpu_flags(info.read_text()) if info.is_file() else set(), os.cpu_count() or 1)
    letters = set(args.only.replace(',', ' ').split()) or {c.letter for c in every}
    if unknown := letters - {c.letter for c in every}:
        parser.error(f'no condition {", ".join(sorted(unknown))}; there are {", ".join(f"{c.letter} ({c.what})" for c in every)}.')
    variables = [f'PAGES={args.pages}'] * bool(args.pages) + [f'TESTS={args.tests}'] * bool(args.tests)
    FOLDER.mkdir(parents=True, exist_ok=True)
    what, results = json.dumps([tree(), variables]), {}
    for condition in (c for c in every if c.letter in letters):
        if condition.missing:
            print(f'({condition.letter}) {condition.what}: left out, {condition.missing}')
            continue
        stamp = FOLDER / f'{condition.letter}.json'
        done = json.loads(stamp.read_text()) if stamp.is_file() and not args.fresh else {}
        if done.get('what') != what:
            print(f'({condition.letter}) {condition.what}: {" ".join(f"{k}={v}" for k, v in condition.env.items())}', flush=True)
            done = dict(run(condition, variables), what=what)
            stamp.write_text(json.dumps(done, indent=1) + '\n')
        else:
            print(f'({condition.letter}) {condition.what}: finished before')
        results[condition.letter] = done['failed']
        print(f'({condition.letter}) {len(done["failed"])} failed, {done["seconds"]} s', flush=True)
    print('', *table(results, {c.letter: c.what for c in every}), sep='\n')
    return int(any(results.values()))


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print('interrupted; finished conditions are kept, the same command goes on.', file=sys.stderr)
        sys.exit(130)
