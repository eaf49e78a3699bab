"""Writes trainer/text/unicode_tables.inc: where the Unicode of `tokenizers` is not the Unicode of Debian 12's libraries.

- kLaterCharacters: characters that its regular expressions (Unicode 16) know and PCRE2 10.42 (Unicode 14) does not
- kNumbersOfDigits: numbers that its Digits splitter (Rust's char::is_numeric, Unicode 17) knows beyond those
- kStartersOfNfc: characters with a combining class or a composition that its NFC (Unicode 9) does not know yet

Needs tokenizers 0.23.3 and unicodedata2 (any version from 17 on), with a Python 3.11 (unicodedata of Unicode 14):
    python tests/parity/text/make_unicode_tables.py > trainer/text/unicode_tables.inc
"""
import unicodedata

import tokenizers
import unicodedata2
from tokenizers import Regex, normalizers, pre_tokenizers

assert unicodedata.unidata_version == "14.0.0", unicodedata.unidata_version
CHARACTERS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def known(splitter):
    """Code points that a splitter isolates when they stand between two characters U+0001."""
    found = set()
    for start in range(0, len(CHARACTERS), 4096):
        text = "".join("\x01" + chr(c) for c in CHARACTERS[start : start + 4096]) + "\x01"
        found |= {ord(piece) for piece, _ in splitter.pre_tokenize_str(text) if len(piece) == 1}
    return found - {1}


def rows(codes, label):
    out = []
    for code in sorted(codes):
        if out and out[-1][1] == code - 1 and out[-1][2] == label(code):
            out[-1][1] = code
        else:
            out.append([code, code, label(code)])
    return out


def show(name, kind, table):
    print(f"constexpr {kind} {name}[] = {{")
    line = "   "
    for first, last, label in table:
        item = f' {{0x{first:X}, 0x{last:X}{f", {chr(34)}{label}{chr(34)}" if label else ""}}},'
        if len(line) + len(item) > 108:
            print(line)
            line = "   "
        line += item
    print(line)
    print("};")


later = {c for c in CHARACTERS if unicodedata.category(chr(c)) == "Cn"}
category = {}
for name in "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cf".split():
    for c in known(pre_tokenizers.Split(Regex(r"\p{%s}" % name), "isolated")) & later:
        category[c] = name
numbers = known(pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"))
extra = known(pre_tokenizers.Digits(individual_digits=True)) - numbers

nfc = normalizers.NFC().normalize_str
starters = {c for c in later if unicodedata2.combining(chr(c))}
for c in CHARACTERS:
    for other in (0x301, 0x323, 0x5B0, 0x3099, 0x334):
        if unicodedata.combining(chr(c)):
            for text in ("a" + chr(c) + chr(other), "a" + chr(other) + chr(c)):
                if nfc(text) != unicodedata.normalize("NFC", text):
                    starters.add(c)
    parts = unicodedata2.decomposition(chr(c))
    if parts and not parts.startswith("<"):
        codes = [int(part, 16) for part in parts.split()]
        if c in later:
            starters |= {c, *(code for code in codes if code in later)}
        elif nfc("".join(map(chr, codes))) != unicodedata.normalize("NFC", "".join(map(chr, codes))):
            starters |= {c, *codes}

print("// Made by tests/parity/text/make_unicode_tables.py from tokenizers", tokenizers.__version__, "and unicodedata2",
      unicodedata2.unidata_version)
show("kLaterCharacters", "CategoryRange", rows(category, category.get))
show("kNumbersOfDigits", "CodeRange", rows(extra, lambda c: ""))
show("kStartersOfNfc", "CodeRange", rows(starters, lambda c: ""))
