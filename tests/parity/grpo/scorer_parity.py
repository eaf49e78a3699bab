"""`assay-train score --scorer verl` against Python's re on verl's documented rule: nasty strings and 20000 random ones.

With --evaluation STEP.jsonl --data TEST.jsonl also a kept evaluation of a run: every outcome against the same rule.

The rule (verl, strict mode of its GSM8K reward): keep the last 300 characters; take the last match of
`#### (\\-?[0-9\\.\\,]+)`; drop `,` and `$`; score 1 when the text equals the gold answer.
"""
import argparse
import json
import pathlib
import random
import re
import subprocess
import sys

parser = argparse.ArgumentParser()
parser.add_argument("--build", required=True)
parser.add_argument("--evaluation", type=pathlib.Path, help="eval/step-*.jsonl of a run's folder")
parser.add_argument("--data", type=pathlib.Path, help="the test problems it was made with")
options = parser.parse_args()
program = pathlib.Path(options.build) / "bin" / "assay-train"
if not program.exists():
    print(f"SKIPPED: {program} is not built (ninja assay-train)")
    sys.exit(0)

RULE = re.compile(r"#### (\-?[0-9\.\,]+)")


def found(completion):
    matches = RULE.findall(completion[-300:])
    return matches[-1].replace(",", "").replace("$", "") if matches else None


nasty = ["", "#### 72", "#### 72.", "####72", "#### $72", "#### -72", "#### --72", "#### -", "#### -.", "#### ,", "#### .5",
         "##### 72", "#### #### 72", "#### 72#### 73", "#### 7 2", "####  72", "#### 72", "####\t72", "#### 1,234,5",
         "#### 72\n#### 73\n", "#### ٣", "#### ７２", "é" * 293 + "#### 72", "#### 72" + "é" * 293, "#### 72" + "é" * 294,
         "#### 72" + "😀" * 293, "#### 72" + "😀" * 294, "e\u0301" * 200 + "#### 72", "\x00#### 72", "#### 72\x00", "### 72",
         "#### 72-3", "####-72", "#### 1e5", "#### 72 " + "x" * 290, "x" * 400]
draw = random.Random(1)
pieces = ["#", "##", "####", "#### ", " ", "-", "$", ",", ".", "\n", "é", "😀", "the answer is "] + list("0123456789") * 2
strings = nasty + ["".join(draw.choice(pieces) for _ in range(draw.randint(0, 40))) for _ in range(15000)]
strings += ["".join(draw.choice(pieces) for _ in range(draw.randint(200, 500))) for _ in range(5000)]
golds = []
for text in strings:
    answer = found(text)
    golds.append(answer if answer is not None and draw.random() < 0.5 else str(draw.randint(-20, 99)))

lines = "".join(json.dumps({"completion": text, "answer": gold}) + "\n" for text, gold in zip(strings, golds))
done = subprocess.run([program, "score", "--scorer", "verl"], input=lines.encode(), capture_output=True, check=True)
answers = [json.loads(line) for line in done.stdout.decode().splitlines()]
assert len(answers) == len(strings), (len(answers), len(strings))
different = matches = correct = 0
for text, gold, got in zip(strings, golds, answers):
    answer = found(text)
    matches += answer is not None
    expected = 1.0 if answer is not None and answer == gold else 0.0
    correct += expected == 1.0
    if (got["found"] or None) != (answer or None) or got["score"] != expected or got["format_right"] != (answer is not None):
        different += 1
        if different <= 5:
            print("DIFFERENT:", repr(text), "gold", repr(gold), "ours", got, "verl's rule", answer, expected)
print(f"{'DIFFERENT' if different else 'same'}: verl scorer on {len(strings)} strings, {matches} with an answer, "
      f"{correct} correct: {different} differences")

if options.evaluation:
    problems = [json.loads(line) for line in options.data.read_text().splitlines()]
    answers = [json.loads(line) for line in options.evaluation.read_text().splitlines()]
    otherwise = found_any = 0
    for got in answers:
        answer = found(got["completion"])
        gold = problems[got["index"]]["answer"].split("####")[1].strip().replace(",", "")
        expected = "unparsable" if answer is None else "correct" if answer == gold else "wrong"
        found_any += answer is not None
        if got["outcome"] != expected:
            otherwise += 1
            print("DIFFERENT:", got, "verl's rule", expected)
    print(f"{'DIFFERENT' if otherwise else 'same'}: {len(answers)} evaluated problems, {found_any} with an answer: "
          f"{otherwise} differences")
    different += otherwise
sys.exit(1 if different else 0)
