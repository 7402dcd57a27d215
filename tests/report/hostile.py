"""Texts that try to be more than text, one of each kind that we know of."""

from __future__ import annotations

import re

HOSTILE = (
    "\x1b[2J\x1b]0;taken\x07",
    "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">",
    "<!--<script>",
    "<svg/onload=document.title='taken'><iframe srcdoc='<script>1</script>'>",
    "&lt;b&gt; ${1+1} {{7*7}} {% raw %} %s %n '\"`",
    "[a link](javascript:alert(1)) [red]markup of rich[/red] [/]",
    "green \x1b[32mgrass\x1b[0m, hidden \x1b[8mwords\x1b[30C",
    "one byte escapes: \x9b31m \x9d0;taken\x9c",
    "overtyped\x08\x08\x08\x08\x08\x08\x08\x08\x08 and returned\rgone",
    "\x00 \x01\x02\x7f \ufffe \ue000 \U000e0041",
    "\u202egnp.exe \u2066isolated\u2069 \u200f \u061c",
    "\ufeffa\u200bb\u2060c\xadd",
    "\u2028\u2029\x85\x0b\x0c",
    "Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334\u0319\u0324a\u0321\u031e\u0356lgo",
    "ด" + "้็" * 500,
    "שלום مرحبا ہیلو \U0001f469\u200d\U0001f680\U0001f3ff e\u0301 ﷽ ½ Ⅷ ＮＵＬＬ",
    "undefined NaN -Infinity 0x0 1e309 null true '; DROP TABLE rows; -- ../../etc/passwd CON aux.txt",
    "\t tab and\nline\r\nend \n\n",
    "M" * 1_000_000,
)
_SENT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufffe]")
_OWN = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
_NEVER = re.compile(r"\x1b\[(?:2J|8m|32m|30C)")


def sent(text: str) -> list[str]:
    """What of a text a terminal or a browser would act on instead of showing it."""
    return _SENT.findall(text)


def sent_beside_the_view(text: str) -> list[str]:
    """The same of a terminal view, which moves the cursor and has a few colours of its own."""
    return _NEVER.findall(text) + sent(_OWN.sub("", text))
