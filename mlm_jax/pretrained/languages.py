"""The languages that Whisper knows: codes, and the names that they may be asked for by."""

NAMES = """
af afrikaans, am amharic, ar arabic, as assamese, az azerbaijani, ba bashkir, be belarusian,
bg bulgarian, bn bengali, bo tibetan, br breton, bs bosnian, ca catalan/valencian, cs czech,
cy welsh, da danish, de german, el greek, en english, es spanish/castilian, et estonian,
eu basque, fa persian, fi finnish, fo faroese, fr french, gl galician, gu gujarati, ha hausa,
haw hawaiian, he hebrew, hi hindi, hr croatian, ht haitian creole/haitian, hu hungarian,
hy armenian, id indonesian, is icelandic, it italian, ja japanese, jw javanese, ka georgian,
kk kazakh, km khmer, kn kannada, ko korean, la latin, lb luxembourgish/letzeburgesch, ln lingala,
lo lao, lt lithuanian, lv latvian, mg malagasy, mi maori, mk macedonian, ml malayalam,
mn mongolian, mr marathi, ms malay, mt maltese, my myanmar/burmese, ne nepali, nl dutch/flemish,
nn nynorsk, no norwegian, oc occitan, pa punjabi/panjabi, pl polish, ps pashto/pushto,
pt portuguese, ro romanian/moldavian/moldovan, ru russian, sa sanskrit, sd sindhi,
si sinhala/sinhalese, sk slovak, sl slovenian, sn shona, so somali, sq albanian, sr serbian,
su sundanese, sv swedish, sw swahili, ta tamil, te telugu, tg tajik, th thai, tk turkmen,
tl tagalog, tr turkish, tt tatar, uk ukrainian, ur urdu, uz uzbek, vi vietnamese, yi yiddish,
yo yoruba, yue cantonese, zh chinese/mandarin
"""
CODES = {
    name: code
    for code, names in (each.split(maxsplit=1) for each in NAMES.strip().split(","))
    for name in names.split("/")
}
"""By English name, in lower case."""


def code_of(language: str) -> str:
    """Of a name, "German" -> "de"; a code stays as it is, in lower case."""
    return CODES.get(language.lower(), language.lower())
