"""Our Wilson interval and exact McNemar test against scipy's.

python tests/parity/reports/statistics_parity.py --build BUILD_DIR     (needs the target statistics_lines)
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys

parser = argparse.ArgumentParser()
parser.add_argument("--build", required=True, type=pathlib.Path)
args = parser.parse_args()

try:
    import scipy
    from scipy.stats import binomtest
except ImportError as error:
    print(f"SKIPPED: {error}")
    sys.exit(0)
program = args.build / "bin" / "statistics_lines"
if not program.exists():
    print(f"SKIPPED: {program} is not built")
    sys.exit(0)

rng = random.Random(13)
wilson = [(k, n, 0.95) for n in (1, 2, 7, 32, 1024, 1319) for k in {0, 1, n // 3, n // 2, n - 1, n}]
wilson += [(rng.randint(0, n), n, rng.choice((0.5, 0.8, 0.9, 0.95, 0.99, 0.999)))
           for n in (rng.randint(1, 100_000) for _ in range(500))]
mcnemar = [(b, c) for b in range(0, 40) for c in range(0, 40)]
mcnemar += [(rng.randint(0, 3000), rng.randint(0, 3000)) for _ in range(500)]

lines = [json.dumps({"wilson": w}) for w in wilson] + [json.dumps({"mcnemar": m}) for m in mcnemar]
answer = subprocess.run([program], input="\n".join(lines) + "\n", capture_output=True, text=True, check=True)
ours = [json.loads(line) for line in answer.stdout.splitlines()]
assert len(ours) == len(lines), (len(ours), len(lines))

worst_interval = 0.0
for (k, n, confidence), got in zip(wilson, ours):
    ci = binomtest(k, n).proportion_ci(confidence_level=confidence, method="wilson")
    worst_interval = max(worst_interval, abs(ci.low - got[0]), abs(ci.high - got[1]))
worst_p = worst_relative = 0.0
for (b, c), got in zip(mcnemar, ours[len(wilson):]):
    # statsmodels' mcnemar(exact=True): twice the lower binomial tail, at most 1.
    want = 1.0 if b == c else min(1.0, binomtest(min(b, c), b + c, 0.5).pvalue)
    worst_p = max(worst_p, abs(want - got))
    if want > 1e-300:
        worst_relative = max(worst_relative, abs(want - got) / want)

print(f"scipy {scipy.__version__}: {len(wilson)} Wilson intervals, largest difference {worst_interval:.1e}; "
      f"{len(mcnemar)} exact McNemar tests, largest difference {worst_p:.1e}, relative {worst_relative:.1e}")
ok = worst_interval <= 1e-9 and worst_p <= 1e-9 and worst_relative <= 1e-9
print("equal within 1e-9" if ok else "DIFFERENT by more than 1e-9")
sys.exit(0 if ok else 1)
