"""Words of a caption as the COCO caption scorer takes them, without Java.

That scorer runs the tokenizer of the Penn Treebank in Stanford's edition (version 3.4.1, with
-preserveLines and -lowerCase) and takes its punctuation out. The rules here were found by asking
that program, and give its words on every caption of COCO. What is known to differ is rare: a
character beyond U+FFFF is left out as it is there, but one of the rarer signs and scripts below
that may be one word here and none there; a line break inside a caption is a space.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from re import Match

REMOVED = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--",
     "...", ";"]
)  # fmt: skip
"""What the scorer takes out. Its brackets are in capitals and its words are not, so they stay."""

SAME = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    '"': "''", "“": "``", "”": "''", "«": "``", "»": "''",
    "‘": "`", "’": "'", "‛": "`", "‹": "`", "›": "'", "–": "--", "—": "--", "―": "--", "…": "...",
    "£": "#", "€": "$", "¤": "$", "₠": "$", "¢": "cents",
    "¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3",
    "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": "''", "&apos;": "'", "&nbsp;": "",
}  # fmt: skip
"""Signs that are written in another way."""

# --- what a word is made of ---

MARK = "\u0300-\u036f\u00ad"  # accents that stand alone, and the soft hyphen
SMALL = "²³¹⁰-₉¼-¾⅐-⅞"  # no digits there
LETTER = f"(?:[^\\W\\d_{SMALL}]|[{MARK}])"
ALNUM = f"(?:[^\\W_{SMALL}]|[{MARK}])"
APOSTROPHE = "(?:['’]|&apos;)"
END = f"(?!{LETTER})"
WORD = f"{LETTER}{ALNUM}*(?:[.!?]{LETTER}{ALNUM}*)*"
CLITIC = f"{APOSTROPHE}(?:[sdm]|re|ve|ll){END}"
PART = f"(?:[dol]{APOSTROPHE}{LETTER}(?={LETTER}))?{ALNUM}+"
THING = f"{PART}(?:[-_‐‑֊]{PART})*"
NUMBER = r"(?:\d*(?:[.:,]\d+)+|\d+)"
ATTRIBUTE = r"""[a-z][\w:.-]*(?: *= *(?:'[^']*'|"[^"]*"|[a-z][\w:.-]*))?"""
TWO_PARTS = re.compile(f"{APOSTROPHE}(?:[sdmt]|re|ve|ll)|n{APOSTROPHE}t")
UNSEEN = "‐‑֊�"  # signs that are left out
PATH = r'(?:/[^\s"<>|()]+[^\s"<>|.!?(){},-])?'

ANY_CASE = (
    "adj adm adv al ala alex apr ariz assn assoc asst attys? aug ave bancorp bhd bldg blvd brig"
    " bros calif capt cf cie cmdr comdr co col colo conn corp cos cpl ct dak dec dept det drs? elec"
    " ens esq est etc ext feb fla fri ft ga gen govs? hon inc ind insp intl invt jan jos jr jul jun"
    " kans? ky lieut lt ltd maj mar md messrs mich minn mlle mme mo mon mont mrs? ms msgr mt natl"
    " neb nev nov oct okla penn pfc ph plc pres profs? pvt rd reps? rev rt sens? sept? seq sfc sgt"
    " spc sq sr ste? supts? sys tel tenn thu thurs tues? univ va vs vt wed wisc? wm wyo"
)
NOT_CAPITALS = "mfg mtg ppte ppty ptes? ptys?"
CAPITALISED = "Ark Az Del Ill La Mass Miss Ore Pa Tex Wash"
BEFORE_NUMBERS = "art ca figs? nos? op pp prop"
BEGINNINGS = (
    "A About According Additionally After An As At But Earlier He Her Here However If In It Last"
    " Many More Mr. Ms. Now Once One Other Our She Since So Some Such That The Their Then There"
    " These They This We What When While Yet You"
)
STARTERS = frozenset(BEGINNINGS.split())
"""Before these a point after a single letter ends a sentence."""


def _either(words: str) -> str:
    return f"(?:{words.replace(' ', '|')})"


def _any_tail(word: str) -> str:
    """Ark -> A[Rr][Kk]: its first letter as it is, the others in either case."""
    return word[0] + "".join(f"[{c.upper()}{c}]" for c in word[1:])


RULES: tuple[tuple[str, str], ...] = (
    # markup, addresses, names
    (r"<[!?][a-z-][^>]*>", ""),
    (rf"</?[a-z][\w:.-]*(?: +{ATTRIBUTE})* */?>", ""),
    (r'https?://[^\s"<>|()]+[^\s"<>|.!?(){},-]', ""),
    (rf'www\.(?:[^\s"<>|.!?(){{}},]+\.)+[a-z]{{2,4}}{PATH}', ""),
    (rf"(?:[^\s\"`'<>|.!?(){{}},_$&-]+\.)+(?:com|net|org|edu){PATH}", ""),
    (r'[a-z0-9][^\s"<>|()]*@(?:[^\s"<>|().]+\.)*[^\s"<>|()\[\].,;:\']+', ""),
    (rf"#{LETTER}+|@[a-z_]\w*|-[lr][rsc]b-", ""),
    # words in two parts
    (rf"{LETTER}{ALNUM}*(?<![nN\d])", rf"n{APOSTROPHE}t{END}"),
    (rf"n{APOSTROPHE}t", END),
    (WORD, CLITIC),
    (CLITIC, ""),
    ("can", f"not{END}"),
    ("gon|wan", f"na{END}"),
    ("got", f"ta{END}"),
    ("gim|lem", f"me{END}"),
    ("more", f"['’]n{END}"),
    ("['’]t", f"(?:is|was){END}"),
    ("y['’]", LETTER),
    # words with an apostrophe
    (rf"{APOSTROPHE}n{APOSTROPHE}", ""),
    ("['’]n", r"(?=\s)"),
    ("['’](?:em|till?|cause)", END),
    (r"['’](?:[2-9]0s|\d\d(?=\s))", END),
    (rf"(?:[ldj]|dunkin|somethin|ol){APOSTROPHE}", ""),
    (rf"(?:[dlno]|(?-i:[A-HJ-XZ]))['’`]{LETTER}{{2,}}", ""),
    (rf"{LETTER}+[aeiouy]['’`](?-i:[aeiouA-Z]){LETTER}*", ""),
    ("cont['’]d\\.|nor['’]easter|c['’]mon|e['’]er|s['’]mores|ev['’]ry|li['’]l|nat['’]l", ""),
    # numbers
    (f"[-+]?{NUMBER}", ""),
    (r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}|(?:\d{1,4}[- ])?\d{1,4}/\d{1,4}", ""),
    (r"(?:\(\d{2,3}\) ?|(?:\+?\d{2,4}[- ])?\d{2,4}[- ])\d{3,4}[- ]\d{3,5}", ""),
    (rf"\d*(?:[.,]\d+)+(?:-{ALNUM}+)+", ""),
    # words, and others in capitals
    (WORD, ""),
    (THING, ""),
    (rf"{PART}(?:-{PART})*(?:/{PART}(?:-{PART})*){{1,2}}", ""),
    ("(?-i:[A-Z]+(?:&[A-Z]+)+)", ""),
    (r"c\+\+|[cf]#", ""),
    # abbreviations keep their point
    (rf"[a-z]\.(?:(?:[a-z]\.)*(?:-{ALNUM}+)*)?|ph\.d\.", ""),
    ("[a-z]", rf"\. (?-i:{_either(BEGINNINGS)}) "),
    (rf"{_either(ANY_CASE)}\.(?:-{ALNUM}+)*", ""),
    (rf"(?-i:{_either(' '.join(map(_any_tail, CAPITALISED.split())))}\.)", ""),
    (rf"(?-i:{_either(f'{NOT_CAPITALS} {NOT_CAPITALS.title()}')})\.", ""),
    (rf"{_either(BEFORE_NUMBERS)}\.", r"\s*\d"),
    (rf"{WORD}\.", "[,;:]"),
    # faces, money, and signs of which several are one
    (r"[<>]?[:;=][-o*']?[()dp\\{@|\[\]]|[:;=](?-i:O)|\^_\^|-_-", r"(?!\w)"),
    (r"(?-i:[A-Z]*)\$", ""),
    (r"&(?:#\d+|amp|lt|gt|quot|apos|nbsp|[aeiou](?:acute|grave|uml|circ));", ""),
    (r"[?!]+|\.{3}|\*+|_+|#+|@+|-+|[²³¹⁰-₉]+|<<|>>|''|``", ""),
)
"""What a word is, and what has to follow it. As in the program that is followed, the longest match
counts, with what follows, and of equals the first."""
RULE = [re.compile(f"({word}){after}", re.IGNORECASE) for word, after in RULES]
CROSSING = re.compile(r"<|\d[) ]+[(\d]|\. *\d|\b[A-Za-z]\. [A-Z]")
"""Where a word may hold a space (1 1/2, <a b>, (555) 555-1234) or depend on the next (No. 5)."""
PLAIN = re.compile("([A-Za-z]{2,})[.,]?")
POINTED = _either(f"{ANY_CASE} {NOT_CAPITALS} {CAPITALISED}")
SPECIAL = re.compile(rf"(?:cannot|[gw][oa]nna|gotta|gimme|lemme)[.,]?|{POINTED}\.", re.IGNORECASE)
LETTER_LAST = re.compile(r"(?:^|[^\w.])[A-Za-z]\.")
ASTRAL = re.compile("[\U00010000-\U0010ffff]")
LONGEST = 1_000
"""Characters without a space that are looked into; more are one word, as the rules take ages."""


def tokenise(captions: Sequence[str]) -> list[str]:
    """The words of each caption, with one space between them, as the official scorer has them.

    It reads captions as one text: of one that ends in a single letter and a point, the point goes
    or stays by how the next begins. A word that holds a space itself (1 1/2) holds a no-break space
    then, as it does there.
    """
    lines = [" ".join(ASTRAL.sub(" ", caption).split()) for caption in captions]
    for place, line in enumerate(lines):
        if line.endswith(".") and LETTER_LAST.fullmatch(line[-3:]):
            first = next((other for other in lines[place + 1 :] if other), "").split(" ")[0]
            if first in STARTERS:
                lines[place] = line[:-1]
    return [_words_of(line) for line in lines]


def _words_of(line: str) -> str:
    """The words of a line without spaces at its ends, or two in a row."""
    if len(line) <= 10 * LONGEST and CROSSING.search(line):
        return _words(line)
    return " ".join(words for chunk in line.split(" ") if (words := _words(chunk)))


@lru_cache(maxsize=1 << 17)
def _words(text: str) -> str:
    """Of a line, or what stands between two spaces: there are few of these, again and again."""
    if " " not in text and len(text) > LONGEST:
        return text.lower()
    plain = PLAIN.fullmatch(text)
    if plain and not SPECIAL.fullmatch(text):  # as most are; the rules take longer
        return plain[1].lower()
    return " ".join(word for word in _scan(f"{text} ") if word and word not in REMOVED)


def _scan(line: str) -> Iterator[str]:
    """Words of a line that ends in a space; nothing for what is left out."""
    place = 0
    while place < len(line):
        found = [match for rule in RULE if (match := rule.match(line, place))]
        longest = max(found, key=Match.end, default=None)
        end = longest.end(1) if longest else place + 1
        yield _written(line[place:end])
        place = end


def _written(word: str) -> str:
    """A word as it is written out; nothing for spaces and what is no sign."""
    if len(word) == 1 and not word.isalnum() and word not in SAME:
        return word if unicodedata.category(word)[0] in "PS" and word not in UNSEEN else ""
    if word.lower() in SAME:
        return SAME[word.lower()]
    if set(word) == {"-"}:
        return "--"
    word = word.lower().replace("\u00ad", "")
    if TWO_PARTS.fullmatch(word):
        word = re.sub(APOSTROPHE, "'", word)
    return word.replace("(", "-lrb-").replace(")", "-rrb-").replace(" ", "\u00a0")
