"""The filter language: conditions on a message, ``priority < 2 and data.state in ("new", "late")``.

A text is compiled once to closures. Compiled, it is total: every message gets true or false, nothing raises, and the
cost is a constant of the filter times the size of the message. There are no functions and no arithmetic. The language
is described for its users in ``docs/filters.rst``; the grammar::

    condition  = both { "or" both }
    both       = one { "and" one }
    one        = "not" one | "(" condition ")" | "exists" operand | operand [ test ]
    test       = ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) operand
               | [ "not" ] "in" "(" literal { "," literal } ")"
               | [ "not" ] "like" string [ "escape" string ]
    operand    = literal | attribute | "header." step | "data" { "." step | "[" digits "]" }
    step       = letters, digits, "_", "-" | string
    literal    = string | number | "true" | "false" | "null"
"""

from __future__ import annotations

import re
from typing import Final, NoReturn

from broker.core.conditions import (
    ATTRIBUTES,
    NUMBER,
    Condition,
    Operand,
    Subject,
    all_of,
    any_of,
    as_number,
    comparison,
    existence,
    header,
    likeness,
    negation,
    path,
    truth,
)
from broker.errors import BadValue

__all__ = ["BadFilter", "Filter", "Subject", "compile_filter"]

#: Bytes of a filter's text: 4 KiB hold some hundred comparisons.
MAX_TEXT: Final = 4096
#: Parentheses and ``not`` within each other; a level costs Python three frames, of a thousand.
MAX_DEPTH: Final = 32
#: Characters between two ``%`` if there is a ``_`` among them: such a piece costs its length times the text's.
MAX_PIECE: Final = 64


class BadFilter(BadValue):
    """A filter's text cannot be compiled; `position` counts its characters from 1."""

    def __init__(self, reason: str, position: int) -> None:
        super().__init__(f"bad filter at character {position}: {reason}")
        self.position = position


class Filter:
    """A compiled filter."""

    __slots__ = ("_condition", "text")

    def __init__(self, text: str, condition: Condition) -> None:
        #: What it was compiled from.
        self.text = text
        self._condition = condition

    def matches(self, subject: Subject) -> bool:
        """True if the message fulfils the condition. Never raises."""
        return self._condition(subject)


def compile_filter(text: str) -> Filter:
    """The filter `text` says; raises `BadFilter`."""
    return Filter(text, _Parser(text).parse())


_space: Final = re.compile(r"\s*")
_word: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_step: Final = re.compile(r"[A-Za-z0-9_-]+")
_symbol: Final = re.compile(r"==|<>|!=|<=|>=|[=<>]")
_quoted: Final = re.compile(r"'((?:[^']|'')*)'|\"((?:[^\"]|\"\")*)\"")
_digits: Final = re.compile(r"\[([0-9]{1,9})\]")
_KEYWORDS: Final = {"and", "or", "not", "in", "like", "escape", "exists", "true", "false", "null"}
_CONSTANTS: Final[dict[str, object]] = {"true": True, "false": False, "null": None}


class _Parser:
    """Recursive descent over the text itself."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def parse(self) -> Condition:
        """The condition that the whole text is."""
        try:
            size = len(self._text.encode())
        except UnicodeEncodeError as error:
            raise BadFilter("it is not valid UTF-8", error.start + 1) from None
        if size > MAX_TEXT:
            raise BadFilter(f"it is {size} bytes long, at most {MAX_TEXT} are allowed", 1)
        condition = self._condition()
        if self._peek():
            self._fail("expected the end, 'and' or 'or'")
        return condition

    # -- the grammar, a method a rule

    def _condition(self) -> Condition:
        conditions = [self._both()]
        while self._take_keyword("or"):
            conditions.append(self._both())
        return any_of(conditions)

    def _both(self) -> Condition:
        conditions = [self._one()]
        while self._take_keyword("and"):
            conditions.append(self._one())
        return all_of(conditions)

    def _one(self) -> Condition:
        self._depth += 1
        if self._depth > MAX_DEPTH + 1:
            self._skip()
            self._fail(f"parentheses and 'not' are nested deeper than {MAX_DEPTH}")
        if self._take_keyword("not"):
            condition = negation(self._one())
        elif self._take("("):
            condition = self._condition()
            self._expect(")")
        elif self._take_keyword("exists"):
            condition = existence(self._operand().value)
        else:
            condition = self._test(self._operand())
        self._depth -= 1
        return condition

    def _test(self, left: Operand) -> Condition:
        self._skip()
        symbol = _symbol.match(self._text, self._at)
        if symbol is not None:
            if symbol[0] in ("==", "<>"):
                self._fail(f"{symbol[0]} is written {'=' if symbol[0] == '==' else '!='} here")
            self._at = symbol.end()
            return comparison(symbol[0], left, self._operand())
        turned = self._take_keyword("not")
        if self._take_keyword("in"):
            condition = self._in(left)
        elif self._take_keyword("like"):
            condition = self._like(left)
        elif turned:
            self._fail("expected 'in' or 'like'")
        elif not left.truth:
            self._fail("expected a comparison, 'in' or 'like'")
        else:
            return truth(left.value)
        return negation(condition) if turned else condition

    def _in(self, left: Operand) -> Condition:
        self._expect("(")
        choices = [comparison("=", left, self._literal())]
        while self._take(","):
            choices.append(comparison("=", left, self._literal()))
        self._expect(")")
        return any_of(choices)

    def _like(self, left: Operand) -> Condition:
        self._skip()
        start = self._at
        pattern, escape = self._string(), ""
        if self._take_keyword("escape"):
            self._skip()
            start_of_escape = self._at
            escape = self._string()
            if len(escape) != 1:
                self._fail("'escape' takes one character", start_of_escape)
        pieces: list[list[str | None]] = [[]]
        characters = iter(pattern)
        for character in characters:
            if character == escape:
                following = next(characters, "")
                if following not in ("%", "_", escape) or not following:
                    self._fail("after the escape character comes %, _ or itself", start)
                pieces[-1].append(following)
            elif character == "%":
                pieces.append([])
            else:
                pieces[-1].append(None if character == "_" else character)
        if any(None in piece and len(piece) > MAX_PIECE for piece in pieces[1:-1]):
            self._fail(f"what stands between two % may be {MAX_PIECE} characters long if there is a _ in it", start)
        return likeness(left.value, pieces)

    def _operand(self) -> Operand:
        character = self._peek()
        if character in "'\"" or character.isdigit() or character == "-" or not character:
            return self._literal()
        start = self._at
        word = _word.match(self._text, start)
        if word is None:
            self._fail("expected an operand")
        name = word[0]
        if name.lower() in _CONSTANTS:
            return self._literal()
        if name.lower() in _KEYWORDS:
            self._fail(f"expected an operand, not '{name}'")
        self._at = word.end()
        if name == "data":
            return Operand(path(self._steps()), truth=True)
        if name == "header":
            if not self._text.startswith(".", self._at):
                self._fail("expected a dot and a header's name")
            self._at += 1
            return Operand(header(self._name()), header=True)
        if name not in ATTRIBUTES:
            known = ", ".join([*ATTRIBUTES, "header.NAME", "data"])
            self._fail(f"no attribute is called '{name[:40]}'; there are {known}", start)
        return Operand(ATTRIBUTES[name])

    def _literal(self) -> Operand:
        character = self._peek()
        start = self._at
        if character and character in "'\"":
            value: object = self._string()
        elif (word := _word.match(self._text, start)) is not None and word[0].lower() in _CONSTANTS:
            self._at = word.end()
            value = _CONSTANTS[word[0].lower()]
        elif (number := NUMBER.match(self._text, start)) is not None:
            self._at = number.end()
            if _step.match(self._text, self._at):
                self._fail("this is no number", start)
            value = as_number(number[0])
            if isinstance(value, str):
                self._fail("the number is too large", start)
        else:
            self._fail("expected a string, a number, true, false or null")
        return Operand(lambda subject: value, truth=isinstance(value, bool))

    # -- pieces of it

    def _steps(self) -> list[str | int]:
        steps: list[str | int] = []
        while True:
            if self._text.startswith(".", self._at):
                self._at += 1
                steps.append(self._name())
            elif self._text.startswith("[", self._at):
                index = _digits.match(self._text, self._at)
                if index is None:
                    self._fail("expected [ and a number and ]")
                self._at = index.end()
                steps.append(int(index[1]))
            else:
                return steps

    def _name(self) -> str:
        """A header's name or a step of a path, right here."""
        step = _step.match(self._text, self._at)
        if step is None:
            return self._string("expected a name, or one in quotes")
        self._at = step.end()
        return step[0]

    def _string(self, expected: str = "expected a string in quotes") -> str:
        found = _quoted.match(self._text, self._at)
        if found is None:
            if self._text[self._at : self._at + 1] in ("'", '"'):
                self._fail("the string has no end")
            self._fail(expected)
        self._at = found.end()
        quote = self._text[found.start()]
        return (found[1] if quote == "'" else found[2]).replace(quote * 2, quote)

    def _skip(self) -> None:
        space = _space.match(self._text, self._at)
        assert space is not None
        self._at = space.end()

    def _peek(self) -> str:
        """The next character that is not space; empty at the end."""
        self._skip()
        return self._text[self._at : self._at + 1]

    def _take(self, character: str) -> bool:
        if self._peek() != character:
            return False
        self._at += 1
        return True

    def _expect(self, character: str) -> None:
        if not self._take(character):
            self._fail(f"expected '{character}'")

    def _take_keyword(self, keyword: str) -> bool:
        self._skip()
        word = _word.match(self._text, self._at)
        if word is None or word[0].lower() != keyword:
            return False
        self._at = word.end()
        return True

    def _fail(self, reason: str, at: int | None = None) -> NoReturn:
        raise BadFilter(reason, (self._at if at is None else at) + 1)
