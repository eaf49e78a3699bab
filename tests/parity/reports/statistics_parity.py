"""Our intervals and tests against scipy's and statsmodels'.

python tests/parity/reports/statistics_parity.py --build BUILD_DIR     (needs the target statistics_lines)
"""
import argparse
import json
import math
import pathlib
import random
import subprocess
import sys

parser = argparse.ArgumentParser()
parser.add_argument("--build", required=True, type=pathlib.Path)
args = parser.parse_args()

try:
    import numpy
    import scipy
    import statsmodels
    from scipy.optimize import brentq
    from scipy.stats import binomtest, chi2_contingency, fisher_exact, norm, t, ttest_1samp
    from statsmodels.stats.contingency_tables import mcnemar
    from statsmodels.stats.multitest import multipletests
    from statsmodels.stats.proportion import (confint_proportions_2indep, power_proportions_2indep, proportion_confint,
                                              proportions_ztest)
except ImportError as error:
    print(f"SKIPPED: {error}")
    sys.exit(0)
program = args.build / "bin" / "statistics_lines"
if not program.exists():
    print(f"SKIPPED: {program} is not built")
    sys.exit(0)

rng = random.Random(13)


def tables(count, largest):
    """(k1, n1, k2, n2) with some right and some wrong in all."""
    made = []
    while len(made) < count:
        n1, n2 = rng.randint(1, largest), rng.randint(1, largest)
        k1, k2 = rng.randint(0, n1), rng.randint(0, n2)
        if 0 < k1 + k2 < n1 + n2:
            made.append((k1, n1, k2, n2))
    return made


def tango(b, c, n, confidence):
    """The score interval of Tango (1998): at each difference d the share of problems that only the first gets right is
    the one of greatest likelihood, found by looking for it, not by a formula."""
    z = norm.ppf(0.5 + confidence / 2)

    def statistic(d):
        # p_second_only = q + d, p_first_only = q; log likelihood b log q + c log(q+d) + (n-b-c) log(1-2q-d)
        low, high = max(0.0, -d), (1 - d) / 2
        slope = lambda q: (b / q if b else 0.0) + (c / (q + d) if c else 0.0) - (2 * (n - b - c) / (1 - 2 * q - d) if n > b + c else 0.0)
        edge = 1e-15 * max(1.0, abs(d))
        if high - low <= 4 * edge:
            q = low
        elif slope(low + edge) <= 0:
            q = low
        elif slope(high - edge) >= 0:
            q = high
        else:
            q = brentq(slope, low + edge, high - edge, xtol=1e-18, rtol=8.9e-16, maxiter=500)
        variance = n * (2 * q + d * (1 - d))
        distance = c - b - n * d
        if variance <= 0:
            return math.copysign(math.inf, distance) if distance else 0.0
        return distance / math.sqrt(variance)

    def root(level, low, high):
        for _ in range(200):
            middle = (low + high) / 2
            if statistic(middle) > level:
                low = middle
            else:
                high = middle
        return (low + high) / 2

    seen = (c - b) / n
    return root(z, -1, seen), root(-z, seen, 1)


cases = []      # (name, arguments, what they say, relative too?)
add = lambda name, arguments, want: cases.append((name, arguments, want))

for k, n, level in [(k, n, 0.95) for n in (1, 2, 7, 32, 1024, 1319) for k in {0, 1, n // 3, n // 2, n - 1, n}] + [
        (rng.randint(0, n), n, rng.choice((0.5, 0.8, 0.9, 0.95, 0.99, 0.999)))
        for n in (rng.randint(1, 100_000) for _ in range(500))]:
    ci = binomtest(k, n).proportion_ci(confidence_level=level, method="wilson")
    other = proportion_confint(k, n, alpha=1 - level, method="wilson")
    assert numpy.allclose(other, (ci.low, ci.high), atol=1e-12)
    add("wilson", (k, n, level), (ci.low, ci.high))
for b, c in [(b, c) for b in range(40) for c in range(40)] + [(rng.randint(0, 3000), rng.randint(0, 3000)) for _ in range(500)]:
    add("mcnemar", (b, c), min(1.0, float(mcnemar([[0, b], [c, 0]], exact=True).pvalue)))
for k1, n1, k2, n2 in tables(500, 5000) + [(98, 1319, 119, 1319), (119, 1319, 110, 1319), (119, 1319, 137, 1319)]:
    add("two_proportions", (k1, n1, k2, n2), float(proportions_ztest([k1, k2], [n1, n2])[1]))
for k1, n1, k2, n2 in tables(400, 60) + tables(100, 1500):
    add("fisher", (k1, n1, k2, n2), float(fisher_exact([[k1, n1 - k1], [k2, n2 - k2]])[1]))
for k1, n1, k2, n2 in tables(500, 3000):
    level = rng.choice((0.8, 0.95, 0.99))
    add("newcombe", (k1, n1, k2, n2, level),
        confint_proportions_2indep(k2, n2, k1, n1, compare="diff", method="newcomb", alpha=1 - level))
for b, c, n in [(0, 0, 1024), (0, 7, 1024), (9, 0, 200), (3, 3, 20), (0, 0, 1), (12, 40, 1024), (5, 9, 14)] + [
        (b, c, b + c + rng.randint(0, 2000)) for b, c in ((rng.randint(0, 300), rng.randint(0, 300)) for _ in range(100)) if b + c]:
    add("paired_difference", (b, c, n, 0.95), tango(b, c, n, 0.95))
for _ in range(200):
    n = rng.randint(20, 2000)
    counts = [rng.randint(1, n - 1) for _ in range(rng.randint(2, 12))]
    test = chi2_contingency([counts, [n - k for k in counts]], correction=False)
    add("spread", (counts, n), (test.statistic, test.pvalue))
for _ in range(200):
    values = [rng.gauss(rng.uniform(-5, 5), 3) for _ in range(rng.randint(2, 12))]
    level = rng.choice((0.9, 0.95, 0.99))
    low, high = t.interval(level, len(values) - 1, numpy.mean(values), numpy.std(values, ddof=1) / math.sqrt(len(values)))
    add("mean", (values, level), (numpy.mean(values), low, high, ttest_1samp(values, 0).pvalue))
for _ in range(200):
    p = [rng.random() ** 4 for _ in range(rng.randint(1, 20))]
    add("holm", p, multipletests(p, method="holm")[1])
for _ in range(200):
    base, n = rng.uniform(0.02, 0.6), rng.randint(50, 5000)
    difference = rng.uniform(0.005, 0.35)
    want = power_proportions_2indep(difference, base, n, alternative="two-sided").power
    add("power", (base, difference, n, 0.05), float(want))
detectable = [(rng.uniform(0.02, 0.6), rng.randint(50, 5000)) for _ in range(200)]

lines = [json.dumps({name: arguments}) for name, arguments, _ in cases]
lines += [json.dumps({"detectable": arguments}) for arguments in detectable]
answer = subprocess.run([program], input="\n".join(lines) + "\n", capture_output=True, text=True, check=True)
ours = [json.loads(line) for line in answer.stdout.splitlines()]
assert len(ours) == len(lines), (len(ours), len(lines))

worst, counts = {}, {}
for (name, arguments, want), got in zip(cases, ours):
    difference = float(numpy.max(numpy.abs(numpy.atleast_1d(want) - numpy.atleast_1d(got))))
    if name == "spread":  # chi-square may be in the hundreds: relative
        difference /= max(1.0, float(numpy.max(numpy.abs(want))))
    counts[name] = counts.get(name, 0) + 1
    if not difference <= worst.get(name, -1):
        worst[name] = difference
        if not difference <= 1e-9:
            print("DIFFERENT", name, arguments, "theirs", want, "ours", got)
for (base, n), got in zip(detectable, ours[len(cases):]):
    reached = power_proportions_2indep(got, base, n, alternative="two-sided").power
    worst["detectable"] = max(worst.get("detectable", 0.0), abs(float(reached) - 0.8))
    counts["detectable"] = counts.get("detectable", 0) + 1

print(f"scipy {scipy.__version__}, statsmodels {statsmodels.__version__}:",
      "; ".join(f"{counts[name]} {name}, largest difference {worst[name]:.1e}" for name in counts))
ok = all(difference <= 1e-9 for difference in worst.values())
print("equal within 1e-9" if ok else "DIFFERENT by more than 1e-9")
sys.exit(0 if ok else 1)
