"""Writes templates.json: what transformers makes of chat templates.

    python make.py

Needs transformers 5.24 with jinja2 3.1.6. Each case is a template, the name of its context and the
rendered text; null stands for an error. `ranges` are the bytes that stand in `generation`.
"""

import json
import pathlib
import datetime
from unittest import mock

from transformers.utils import chat_template_utils as utils

HERE = pathlib.Path(__file__).parent

MESSAGES = [
    {"role": "system", "content": "You help."},
    {"role": "user", "content": "  Wie geht's, 世界? \"quoted\" <b>\n"},
    {
        "role": "assistant",
        "content": "<think>\nhm\n</think>\n\nA call.",
        "tool_calls": [
            {"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 2, "x": None}}}
        ],
    },
    {"role": "tool", "name": "weather", "content": "{\"rain\": true}"},
    {"role": "assistant", "content": "It rains."},
    {"role": "user", "content": [{"type": "text", "text": "And"}, {"type": "image"}]},
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city's <area> & more.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "which", "enum": ["Bern", "Zürich"]},
                    "days": {"type": "integer", "minimum": 1.5, "default": True},
                    "nested": {"type": "array", "items": {"type": ["number", "null"]}},
                },
                "required": ["city"],
            },
        },
    }
]
CONTEXTS = {
    "none": {},
    "chat": {
        "messages": MESSAGES, "tools": None, "documents": None, "add_generation_prompt": True,
        "bos_token": "<s>", "eos_token": "</s>",
    },
    "tools": {
        "messages": MESSAGES[1:5], "tools": TOOLS, "documents": None, "add_generation_prompt": False,
        "bos_token": "<s>", "eos_token": "</s>",
    },
    "data": {
        "items": [{"n": 3, "s": "b", "in": {"k": 1}}, {"n": 1, "s": "A", "in": {"k": 2}}, {"n": 2, "s": "a"}],
        "d": {"b": 1, "a": [1, 2.0, None, True, "it's"], "items": "mine", "get": 5, "C": {}},
        "text": "Hello wörld, hello\tthere", "n": 7, "f": 2.5, "big": 12345678901234567890, "nothing": None,
        "yes": True, "list": [5, 3, 9, 3], "words": ["apple", "Banana", "cherry", "apple"], "empty": [],
        "content": "<think>a Bé</think>\n+1 it's \"<b>\" & 1,\t<think",
    },
}

# One a line.
EXPRESSIONS = r"""
true, none, True, None, false
1.0
1e16
1e-5
123456789.123
0.1 + 0.2
1e300 * 1e10
1_000
0x1F
0b101
0o17
1_0.5_0
.5
1.e3
007
00
[1, 'a', "it's", none, true, 1.5]
{'a': 1, "b": [true, {}], 1: (1,), 2.0: ()}
(1, 2)
(1,)
()
'a\n"\'\t\x07\u00e9\xad\\'|['a\n"\'\t\x07é\xad\u200b\\ ']
1 + 2 * 3 ** 2 - -4 // 3
-7 // 2
-7 % 3
7 % -3
7 / 2
4 / 2
2 ** -1
2 ** 0.5
-2 ** 2
2 ** 3 ** 2
7.5 // 2
-7.5 % 2
5 // 0
5 / 0
5 % 0
1 - 1.0
+true
-true
true + true
1 ~ 2 ~ none ~ 'x' ~ [1]
1 ~ 2 + 3
'a' + 'b' * 3
'a' * -1
[1] * 2 + [3]
(1,) + (2,)
'a' + 1
1 + 'a'
[1] + (2,)
none + 1
{} + {}
1 < 2 < 3
1 < 3 < 2
1 == 1.0 == true
'a' < 'b'
'a' < 1
[1, 2] < [1, 3]
(1,) == [1]
none == none
none < 1
1 != 2
{'a': 1} == {'a': 1.0}
1 in [1.0]
'b' in 'abc'
1 in 'abc'
'a' in {'a': 1}
2 not in (1, 2)
not 1 in [2]
1 in 5
none in none
not true or true and false
1 and 2
0 or 'x'
'' or none
not 'a'
1 if true else 2
1 if false
(1 if false) is defined
1 if 0 else 2 if 0 else 3
undefined_name
undefined_name.x
undefined_name['x']
undefined_name + 1
undefined_name ~ 'x'
undefined_name == other_name
undefined_name is defined
undefined_name|default('d')
[undefined_name]
undefined_name or 5
undefined_name|length
undefined_name|list
undefined_name in [1]
'a' in undefined_name
undefined_name()
undefined_name < 1
undefined_name|upper
undefined_name|tojson
undefined_name|int
d.a
d['a']
d.items
d['items']
d.items()
d['get']
d.get('b')
d.get('zz')
d.get('zz', 3)
d.keys()
d.values()
d.keys()|list
d.zz
d.zz.y
d
d|length
d.copy() == d
d.pop('b')
d.update({})
list.append(1)
list.sort()
d.__class__
list[0]
list[-1]
list[9]
list[9] is defined
list['a'] is defined
list.0
list[1:]
list[::-1]
list[:2]
list[::2]
list[5:1]
list[-2:]
list[::0]
text[0]
text[-1]
text[1:4]
text[::-1]
text[100]
text[1:100:3]
n[0]
n.x is defined
(1,2,3)[1:]
d.a[4]
d.a.4
list.count(3)
list.index(9)
list.index(77)
(1,2).count(1)
n.real is defined
text.upper()
text.lower()
text.title()
text.capitalize()
text.swapcase()
text.split()
text.split(',')
text.split(' ', 1)
text.rsplit(' ', 1)
text.rsplit(None, 1)
text.split('')
text.split(none, 1)
'a,b,,c'.split(',')
''.split()
''.split(',')
' a  b '.split(' ')
text.splitlines()
'a\nb\r\nc\x0bd\n\n'.splitlines()
'a\nb\n'.splitlines(true)
text.strip('Hre')
'  x '.strip() ~ '|'
'  x '.lstrip() ~ '|'
'xxaxx'.rstrip('x')
'\x1c a\u00a0'.strip()
text.startswith('Hell')
text.startswith(('x', 'H'))
text.startswith('ell', 1)
text.endswith('re')
text.endswith('ell', 0, 4)
text.startswith(5)
text.find('w')
text.find('zz')
text.rfind('hello')
text.index('w')
text.index('zz')
text.count('l')
text.count('')
text.count('l', 4)
text.find('o', 5, 9)
text.replace('l', 'L')
text.replace('l', 'L', 2)
'abc'.replace('', '-')
'abc'.replace('', '-', 2)
text.replace('l')
text.partition(', ')
text.rpartition('h')
text.partition('zz')
text.rpartition('zz')
text.partition('')
'abc'.removeprefix('a')
'abc'.removesuffix('bc')
'abc'.removeprefix('x')
'x'.center(6, '*')
'x'.center(5)
'xy'.center(5, '.')
'xy'.ljust(5, '.')
'xy'.rjust(5)
'7'.zfill(3)
'-7'.zfill(4)
'x'.center(5, 'ab')
'a\tb'.expandtabs()
'a\tbc\td'.expandtabs(4)
'-'.join(['a', 'b'])
'-'.join([1])
'-'.join('abc')
'-'.join({'a': 1, 'b': 2})
text.nope()
text.upper(1)
'ß'.upper()
'ÀÉ'.lower()
'straße'.casefold()
'abc'.isalpha()
'ab1'.isalnum()
''.isalpha()
'12'.isdigit()
'12'.isdecimal()
'½'.isnumeric()
'ab'.islower()
'AB1'.isupper()
'1'.isupper()
'Ab Cd'.istitle()
'AB'.istitle()
' \t'.isspace()
''.isspace()
'é'.isascii()
'a_1'.isidentifier()
'1a'.isidentifier()
'a\n'.isprintable()
'%s-%02d' % ('a', 3)
'%s' % 'x'
'%s' % [1, 2]
'%r %s' % ('a', none)
'%d%%' % 5
'%d' % 3.9
'%d' % 'x'
'%i' % true
'%5d|%-5d|%05d|%+d|% d' % (1, 2, 3, 4, 5)
'%x %X %o %#x %#o' % (255, 255, 8, 255, 8)
'%e %E %g %G %f %F' % (1234.5, 0.00012, 1e20, 1e-10, 2.5, 3)
'%.2f' % 2.675
'%10.3f|%-10.1f|%010.2f' % (3.14159, 2.25, -1.5)
'%c%c' % (65, 'b')
'%(a)s %(b)05.1f' % {'a': 1, 'b': 2}
'%s %s' % ('a',)
'%s' % ('a', 'b')
'%s' % {'a': 1}
'x' % {}
'x' % 1
'x' % ()
'%z' % 1
'%' % 1
'%*d' % (5, 42)
'%-*d|' % (5, 42)
'%.3s' % 'abcdef'
'%5s|%-5s|' % ('a', 'b')
'%.3d' % 7
'%+.1e' % 12345
'%g' % 100000
'%g' % 1000000
'%g' % 0.0001
'%#g' % 1
'%s' % undefined_name
'%.0f' % 0.5
'%.0f' % 1.5
'%d' % -5
'%x' % -255
'%5%' % ()
'{} {}'.format(1, 'a')
'{0} {1} {0}'.format('a', 'b')
'{a} {b!r}'.format(a=1, b='x')
'{0.b} {0[a]}'.format(d)
'{:>5}|{:<5}|{:^5}|{:*^7}'.format(1, 2, 3, 'x')
'{:05d} {:+d} {:x} {:#x} {:b} {:o} {:X}'.format(3, 4, 255, 255, 5, 8, 255)
'{:,} {:_} {:,.2f}'.format(1234567, 1234567, 1234.5)
'{:.2f} {:.3e} {:g} {:.1%} {:.3}'.format(1.005, 12345.678, 0.00001, 0.256, 3.14159)
'{{}} {}'.format(1)
'{}'.format()
'{x}'.format()
'{:{w}}|'.format('a', w=4)
'{'.format()
'}'.format()
'{0} {}'.format(1, 2)
'{!s:>4}'.format(none)
'{:d}'.format('x')
'{:s}'.format(1)
'{:.2}'.format('abc')
'{}'.format(1.0)
'{:010.3f}'.format(-3.14159)
'{:=+6d}'.format(5)
'{:e}'.format(0)
'{:5}|'.format(true)
'{:5}|'.format('é')
'{:08,}'.format(1234)
'{0[0]} {0[1]}'.format([1, 2])
'{0.__class__}'.format(1)
'{a.b.c}'.format(a={'b': {'c': 5}})
'{:c}'.format(65)
'{:.0f}'.format(2.5)
'{:>+8.2f}'.format(2.5)
'{:.3}'.format(100.0)
'{:.3}'.format(1234.5)
-3|abs
-2.5|abs
'x'|abs
d|attr('items')
d|attr('b') is defined
[1,2,3]|batch(2)|list
[1,2,3]|batch(2, 0)|list
range(7)|slice(3)|list
range(7)|slice(3, 'x')|list
'heLLo wOrld'|capitalize
'x'|center(5) ~ '|'
words|count
none|default('x')
none|default('x', true)
''|d('x', boolean=true)
d|dictsort(by='key')
{'b': 1, 'A': 2}|dictsort
{'b': 1, 'A': 2}|dictsort(true)
{'b': 1, 'A': 0}|dictsort(false, 'value')
{'b': 1, 'A': 0}|dictsort(reverse=true)
{'b': 1}|dictsort(by='x')
'<a href="x">\'&'|e|'<'|escape|'<'|forceescape|words|first|empty|first|words|last|empty|last|d|first|'abc'|last|{'a': 1, 'b': 2}|last|'3.7'|float|'x'|float|'x'|float(1.5)|3|float|'inf'|float|' 4 '|float|'1e3'|float|none|float|'%s %s'|format(1, 'b')|'%(a)s'|format(a=3)|'%s'|format(1, a=2)|items|groupby('s')|list|length|[{'s': 'b', 'n': 1}, {'s': 'A', 'n': 2}, {'s': 'a', 'n': 3}]|groupby('s')|[{'n': 1}, {'s': 'a'}]|groupby('s', default='z')|[{'s': 'b'}, {'s': 'A'}, {'s': 'a'}]|groupby('s', case_sensitive=true)|([{'s': 'x', 'n': 1}]|groupby('s'))[0].grouper|([{'s': 'x', 'n': 1}]|groupby('s'))[0].list
'a\nb\n\nc'|indent
'a\nb\n\nc'|indent(2, true)
'a\nb\n\nc'|indent(2, blank=true)
'a\nb'|indent('> ')
'a\nb\n'|indent(1, true, true)
1|indent
'42'|int
'42.9'|int
'x'|int
'x'|int(7)
'0x1f'|int(0, 16)
'ff'|int(base=16)
'0b11'|int(base=0)
3.99|int
-3.99|int
none|int
true|int
' 12 '|int
'1_000'|int
''|int
[]|int
1e30|int
d|items|list
undefined_name|items|list
5|items
[1, 2]|join
[1, 'a', none]|join(', ')
items|join(',', attribute='s')
'abc'|join('-')
d|join(',')
[1]|join(5)
5|join
'abc'|length
5|length
'abc'|list
d|list
range(3)|list
5|list
none|list
'ABC'|lower
none|lower
['a', 'B']|map('upper')|list
items|map(attribute='n')|list
items|map(attribute='in.k')|list
items|map(attribute='in.k', default=0)|list
items|map(attribute='zz')|list
words|map('replace', 'a', 'o')|join(' ')
words|map('length')|sum
words|map|list
words|map('nope')|list
[[1], [2]]|map('first')|list
[1, 2]|map('string')|list
['a']|map('nope')
['a', 'b']|map('upper')|length
list|max
list|min
words|max
words|min
words|min(case_sensitive=true)
items|max(attribute='n')
empty|max
empty|max is defined
['a', 1]|max
[1, 2, 3, 4]|reject('odd')|list
[1, 0, none, 'a']|reject|list
[1, 2, 3, 4]|select('even')|list
[1, 0, '']|select|list
[1, 2, 3]|select('gt', 1)|list
[1, 2, 3]|select('>', 1)|list
[1, 2, 3]|select('in', [1, 3])|list
words|select('equalto', 'apple')|list
items|selectattr('n', 'gt', 1)|map(attribute='s')|list
items|selectattr('in')|list|length
items|selectattr('in.k', 'eq', 2)|list
items|rejectattr('in', 'defined')|list
items|selectattr('zz')|list
words|select('nope')|list
(words|select('string')) is iterable
words|selectattr|list
'a-b-a'|replace('a', 'x')
'aaa'|replace('a', 'b', 2)
5|replace(5, 6)
none|replace('None', 'x')
[1, 2, 3]|reverse|list
'abc'|reverse
d|reverse|list
5|reverse
2.5|round
3.5|round
2.675|round(2)
2.71|round(1, 'ceil')
2.79|round(1, 'floor')
25|round
25|round(-1)
35|round(-1)
1234.5|round(-2)
2.5|round(0, 'x')
7|round(2, 'ceil')
'x'|round
'x'|safe
[3, 1, 2]|sort
[3, 1, 2]|sort(reverse=true)
words|sort
words|sort(case_sensitive=true)
items|sort(attribute='n')|map(attribute='n')|list
items|sort(attribute='s,n')|map(attribute='n')|list
['a', 1]|sort
'bca'|sort
5|sort
d|sort
[none, 1]|sort
5|string
none|string
[1, 'a']|string
'<b>x</b> <!-- c --> y  z'|striptags
[1, 2, 3]|sum
items|sum(attribute='n')
[1, 2]|sum(start=10)
[]|sum
['a']|sum
[[1], [2]]|sum(start=[])
'hello wORLD-foo (bar) <x'|title
none|title
'  x '|trim
'xxaxx'|trim('x')
5|trim
'foo bar baz qux'|truncate(9)
'foo bar baz qux'|truncate(9, true)
'foo bar baz qux'|truncate(11)
'foo bar baz qux'|truncate(11, false, '...', 0)
'foo bar baz qux'|truncate(5, end='')
'abc'|truncate(1)
words|unique|list
['a', 'A', 'b']|unique|list
['a', 'A']|unique(true)|list
items|unique(attribute='s')|map(attribute='n')|list
'abc'|upper
1|upper
'a b/ü?&'|urlencode
{'a b': 1, 'c': '&/'}|urlencode
'a b-c d_e'|wordcount
'x'|nope
d|tojson
d|tojson(indent=2)
[]|tojson(indent=2)
{}|tojson(indent=4)
[[], {}, [1]]|tojson(indent=1)
'é<>&\'"\n\u2028\x7f\x01'|tojson|'é😀\x7f'|tojson(ensure_ascii=true)|1.0|tojson|1e20|tojson|1e-7|tojson|100000.0|tojson|big|tojson|none|tojson|true|tojson|(1, 2)|tojson|{1: 2, none: 3, true: 4, 1.5: 5}|tojson|{'b': 1, 'a': 2}|tojson(sort_keys=true)|{'a': [1, 2]}|tojson(separators=(',', ':'))|{'a': [1, 2]}|tojson(separators=(',', ':'), indent=1)|{'a': 1}|tojson(indent='--')|range(3)|tojson|d.keys()|tojson|[1]|map('string')|tojson|{(1, 2): 3}|tojson|'x'|tojson(5, 6, 7, 8, 9)|[1, {'a': none}]|tojson(true)|{'a': 1}|tojson(indent=0)|{'a':1}|tojson(nope=1)
1 is odd
2 is even
6 is divisibleby 3
6 is divisibleby(4)
2.0 is even
'x' is odd
d is defined
zz is undefined
none is none
0 is none
true is boolean
1 is boolean
false is false
0 is false
true is true
1 is true
1 is integer
true is integer
1.0 is integer
1.0 is float
1 is float
'a' is lower
'A' is upper
'1' is lower
'a' is string
1 is string
{} is mapping
[] is mapping
1 is number
true is number
'1' is number
[] is sequence
'a' is sequence
{} is sequence
1 is sequence
range(2) is sequence
zz is sequence
[] is iterable
'a' is iterable
1 is iterable
none is iterable
zz is iterable
range is callable
1 is callable
none is sameas none
1 is sameas 1
true is sameas 1
'x' is escaped
1 is in [1]
1 is in(2)
'a' is in 'abc'
1 is eq 1
1 is == 1
1 is ne 2
2 is gt 1
2 is greaterthan(1)
1 is lt 2
1 is le 1
1 is ge 2
1 is equalto 1.0
'upper' is filter
'nope' is filter
'odd' is test
'nope' is test
1 is not odd
not 1 is odd
1 is nope
1 is odd is even
1 is odd and 2 is even
d.b is defined and d.b is number
1 is odd or zz
d.zz is not defined
none is not none or true
range(5)|list
range(2, 8, 3)|list
range(5, 0, -2)|list
range(3)
range(1, 9, 2)
range(0)|length
range(100001)
range(1, 2, 0)
range('a')
range()
range(10)[3]
range(10)[-1]
range(10)[99] is defined
3 in range(5)
dict(a=1, b=2)
dict([('a', 1)], b=2)
dict({'a': 1}, a=3)
dict.fromkeys(['a', 'b'], 0)
dict(1)
namespace(a=1).a
namespace(a=1)
namespace({'a': 1}).a
namespace(_a=1)
namespace(a=1).b is defined
namespace(a=1)['a']
lipsum
strftime_now('%d %B %Y')
strftime_now('%Y-%m-%d %H:%M')
raise_exception('no')
raise_exception()
cycler('a', 'b').next()
cycler('a', 'b').current
joiner(',')()
nope_function()
(1)(2)
'a'.upper()()
messages.nope is defined
'a' 'b' "c"
'\x41\u0042\U00000043\101\q'
"tab\there"
'it''s'
'\'
"a'b"
['"']
['\'"']|{'a': 1}['a']|{'a': 1}.a|{'a': {'b': 2}}.a.b|[[1, 2], [3]][0][1]|(1, 2)[0]|'abc'[1]|[1, 2,]|{'a': 1,}|(1, 2,)|[,]|{,}|{'a'}|{1: 2, 1.0: 3, true: 4}|{[]: 1}|{(1, 2): 3}[(1, 2)]|{(1, 2): 3}[1, 2]|[1][true]|a b|1 +|(1|1)|[1|{% x|'abc
1 @ 2
$
a.
a.b.
a
a[
x[1:2, 3]
1 if
if
not
-
x
f(a=1, 2)
f(*[1], 2)
f(**{}, a=1)
f(a=1, a=2)
~1
1 ~
--1
- - 1
+-1
not not 1
-list
+'a'
2**-1
-1|abs
(-1)|abs
-1.5|round|int
1.5.x
1 . real
none.x is defined
None.x.y
'%s' % none
'a' if none
'' is none
'%a %r' % ('é', 'é')
'%a' % ['日\t', '🙂', "it's"]
'%-9a|' % 'é'
'{!a}'.format('é')
'{!a:>8}'.format('é')
['²'.isdecimal(), '²'.isdigit(), '²'.isnumeric(), '½'.isdigit(), '½'.isnumeric()]
['٣'.isdecimal(), '٣4'.isdigit(), '①'.isdecimal(), '①'.isdigit(), '𝟗'.isdecimal(), '1²'.isdecimal()]
['٣'|int, '-４２'|int, '٣.٥'|float, '²'|int]
'ß'|capitalize
['ß'.capitalize(), 'ﬁx'.capitalize(), 'ǆ'.title(), 'Ǆ'.capitalize(), 'ŉa'.title(), 'ა'.capitalize(), 'ა'.upper()]
['ß a'|title, 'ßa'.title(), 'ß'.upper(), 'ŉ'|upper]
'a b c'.replace('', '-', 2)
['aXbXc'.split('X', 1), 'aXbXc'.rsplit('X', 1), 'aXbXc'.split('X', 0), 'aXbXc'.rsplit('X', 0), 'X'.split('X'), ''.split('X'), 'aaa'.split('aa'), 'aaa'.rsplit('aa')]
['aaa'.replace('aa', 'b'), 'aaa'.count('aa'), 'abab'.rfind('ab'), 'é<é'.find('é', 1), 'abc'.count('')]
'<a <!-- x -- > b --> c> d <e'|striptags
'a < b <!-- c'|striptags
'a <!--> b --> c > d'|striptags
5|items
x.y|items
range(3)|items
'a %s' % zz
'a' % zz
'a' % range(3)
'%d' % zz
5|truncate
[1]|truncate
[1, 2, 3, 4, 5, 6, 7, 8, 9]|truncate(3)
zz|truncate
{'a': 1}|truncate(3)
content
content == "<think>a Bé</think>\n+1 it's \"<b>\" & 1,\t<think"
content != '<think>'
[content[:7] == '<think>', content[:7] is eq('<think>'), '<' == content[0], content[-6:] == '<think']
['<think>' in content, '</think>' in content, '<x>' in content, content[:7] in '<<think>>', '</' not in content]
[content.startswith('<think>'), content.endswith('<think'), content.startswith(('x', '<t')), content.startswith('think', 1), content.endswith('<think', 5)]
[content.find('</think>'), content.rfind('<think'), content.index('é'), content.rindex('<'), content.count('<'), content.count(''), content.find('<', 3), content.find('zz')]
content.split('</think>')
content.split('</think>')[-1].lstrip('\n')
[content.split('<'), content.rsplit('<', 1), content.split('<', 1), content.split(), content.split(none, 1), content.rsplit(none, 1)]
[content.partition('</think>'), content.rpartition('<'), content.partition('zz'), content.rpartition('zz')]
[content.replace('<think>', '[').replace('</think>', ']'), content.replace('<', '', 1), content|replace('<', '«'), content.replace('', '-', 3)]
[content.removeprefix('<think>'), content.removesuffix('<think'), content.removeprefix('x')]
[content.strip('<'), content.strip('kn<'), content.lstrip('<thk'), content|trim('<'), content[7:9].strip(), content.rstrip(content[0])]
[content.upper(), content.lower(), content.title(), content.capitalize(), content.swapcase(), content.casefold()]
[content|upper, content|lower, content|title, content|capitalize]
content|e
[content|striptags, content|urlencode, content|wordcount, content|truncate(12), content|truncate(12, true)]
[content|tojson, content|tojson(ensure_ascii=true), [content]|string, '%r' % content, '%a' % content, '{!r}'.format(content)]
{content: content}
{content: 1}|tojson(ensure_ascii=true)
{content[:7]: 1}['<think>']
{'<think>': 1}[content[:7]]
{'<think>': 1}.get(content[:7], 2)
{'<': 1, content[0]: 2}
{'<think>': 1, 'b': 2, 'c': 3, 'd': 4, 'e': 5, 'f': 6, 'g': 7, 'h': 8, 'i': 9, 'j': 10}[content[:7]]
[content[0] < 'a', content[0] >= '<', [content[0], '='] < ['<', '>'], content > '<think', content[:7] <= '<think>']
['a', content[0], '<', 'B', '=']|sort
['<', content[0], 'x']|unique|list
[content[0], '<', 'x']|groupby(0)|length
['<', content[0]]|max
[content[0], '=']|min
content|list
[content[0].isalpha(), content[1].isalpha(), content[8].isalpha(), content[10].isupper(), content[1:6].islower(), content[10].istitle(), content[9].isspace()]
[content|length, content.center(60), content.ljust(60, '<'), content[20:22].zfill(6), content.expandtabs(4), content.splitlines(), content|indent(2)]
[content[20:22]|int, content[21:22]|int, content[21:22]|float, content[21].isdigit(), content[21].isdecimal(), content[20:22]]
content|select('in', '<>')|list
content[0] in ['<', '>']
content|replace(content[0], content[1])
content.join(['<', content[0]])
content is lower
content[1:6] is lower
content[::-1]
content|reverse
"""

# What is gone through, for every attribute of `loop`.
ITERABLES = [
    "'aé'", "''", "[1, 2, 2]", "[]", "{'a': 1, 'b': 2}", "{'a': 1}.items()", "range(3)", "[1, 2]|map('string')",
    "(1, 2)", "zz", "'ab'|list", "[1, 2, 3]|reverse", "[1, 2, 3]|batch(2)", "5", "none",
]
LOOP_BODIES = [
    "{{ loop.index }}{{ loop.index0 }}{{ loop.first }}", "{{ loop.last }}", "{% if not loop.last %},{% endif %}",
    "{{ loop.length }}", "{{ loop.revindex }}", "{{ loop.revindex0 }}", "{{ loop.previtem is defined }}",
    "{{ loop.previtem }}", "{{ loop.nextitem is defined }}", "{{ loop.nextitem }}{{ loop.nextitem }}",
    "{{ loop.last }}{{ loop.last }}{{ loop.nextitem is defined }}{{ loop.last }}",
    "{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.last }}",
    "{{ loop.cycle('a', 'b', 'c') }}", "{{ loop.changed(x) }}", "{{ loop.depth }}{{ loop.depth0 }}",
    "{% for y in loop %}{{ y[0] }}{{ loop.last }};{% endfor %}", "{% for d in loop %}.{% endfor %}{{ loop.last }}",
    "{{ loop|list|length }}{{ loop.last }}", "{{ loop|length }}", "{% for y in x %}{{ loop.last }}{% endfor %}",
]
STATEMENTS = ["{% for x in " + over + " %}{{ x }}" + body + ".{% else %}none{% endfor %}" for over in ITERABLES for body in LOOP_BODIES] + [
    # Conditions and loops
    "{% if n > 5 %}a{% elif n %}b{% else %}c{% endif %}",
    "{% if nothing %}a{% elif n == 7 %}b{% elif true %}d{% else %}c{% endif %}",
    "{% for x in list %}{{ x }},{% endfor %}",
    "{% for x in list %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {% endfor %}",
    "{% for x in list %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }};{% endfor %}",
    "{% for x in list %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }} {% endfor %}",
    "{% for x in list %}{{ loop.cycle('a', 'b') }}{{ loop.changed(x) }}{{ loop.depth }}{{ loop.depth0 }}{% endfor %}",
    "{% for x in [1,1,2,2] %}{{ loop.changed(x) }} {% endfor %}",
    "{% for x in empty %}a{% else %}none{% endfor %}", "{% for x in nothing %}a{% endfor %}", "{% for x in zz %}a{% else %}e{% endfor %}",
    "{% for x in list if x > 3 %}{{ loop.index }}:{{ x }} {% else %}no{% endfor %}", "{% for x in list if x > 30 %}{{ x }}{% else %}no{% endfor %}",
    "{% for k, v in d.a %}{% endfor %}", "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for (k, (a, b)) in [(1, (2, 3))] %}{{ k }}{{ a }}{{ b }}{% endfor %}", "{% for k in d %}{{ k }} {% endfor %}", "{% for c in 'häß' %}{{ c }}.{% endfor %}",
    "{% for k, v in [(1, 2, 3)] %}{% endfor %}", "{% for k, v in [(1,)] %}{% endfor %}", "{% for k, v in ['ab'] %}{{ k }}{{ v }}{% endfor %}",
    "{% for x in list %}{% if x == 9 %}{% break %}{% endif %}{{ x }}{% endfor %}", "{% for x in list %}{% if x == 3 %}{% continue %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in range(3) %}{% for y in range(3) %}{% if y == 1 %}{% break %}{% endif %}{{ x }}{{ y }}{{ loop.index }} {% endfor %}{{ loop.index }}{% endfor %}",
    "{% break %}", "{% for x in [1] %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}", "{% for x in [1] %}{% else %}{% break %}{% endfor %}",
    "{% for x in list %}{% set last = x %}{% endfor %}{{ last is defined }}", "{% set a = 1 %}{% for x in list %}{{ a }}{% set a = x %}{{ a }} {% endfor %}{{ a }}",
    "{% set ns = namespace(n=0) %}{% for x in list %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.n }}", "{% set ns.x = 1 %}", "{% set d.x = 1 %}", "{% set ns = namespace() %}{% set ns._x = 1 %}",
    "{% set ns = namespace(a=[]) %}{% set ns.a = ns.a + [1] %}{% set ns.b = 2 %}{{ ns.a }}{{ ns.b }}{{ ns.c is defined }}{{ ns.c }}",
    "{% set n = namespace() %}{% set n.a = n %}{{ n|tojson }}",
    "{% for loop in [1] %}{% endfor %}", "{% for x in [1] %}{% set loop = 2 %}{% endfor %}", "{{ loop }}", "{% for x in [1, 2] %}{{ loop }}{% endfor %}",
    "{% for x in list|map('string') %}{{ loop.length }}{{ loop.revindex }} {% endfor %}", "{% for x in list|map('string') %}{{ x }}{{ loop.last }} {% endfor %}",
    "{% for x in 1, 2, 3 %}{{ x }}{% endfor %}", "{% for x in [3] if true else [4] %}{{ x }}{% endfor %}",
    "{% if 1 if 0 else 2 %}a{% endif %}", "{% for x in list %}{{ loop.nope is defined }}{% endfor %}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.current }}", "{% set j = joiner() %}{% for x in list %}{{ j() }}{{ x }}{% endfor %}",
    # Assignments
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a = 1, 2 %}{{ a }}", "{% set a = 1 if false else 3 %}{{ a }}", "{% set a, b = [1] %}", "{% set (a, b) = (1, 2) %}{{ b }}",
    "{% set a %}x{{ n }}{% endset %}{{ a }}", "{% set a | upper | replace('X', 'y') %}x{{ n }}a{% endset %}{{ a }}", "{% set a %}{% set b = 1 %}{% endset %}{{ b is defined }}",
    "{% set ns = namespace() %}{% set ns.t %}block{% endset %}{{ ns.t }}", "{% set true = 1 %}", "{% set 'a' = 1 %}", "{% set a.b.c = 1 %}", "{% set a = %}", "{% set %}", "{% set a %}",
    "{% if true %}{% set a = 1 %}{% endif %}{{ a }}", "{% set a = 1 %}{% if true %}{% set a = 2 %}{% endif %}{{ a }}",
    "{% with a = 1, b = n %}{{ a }}{{ b }}{% set c = 3 %}{% endwith %}{{ a is defined }}{{ c is defined }}", "{% with %}{% set a = 1 %}{{ a }}{% endwith %}{{ a is defined }}",
    "{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}", "{% with a, b = 1, 2 %}{{ a }}{% endwith %}",
    # Macros
    "{% macro m(a, b=2, c='x') %}{{ a }}{{ b }}{{ c }};{% endmacro %}{{ m(1) }}{{ m(1, c=3) }}{{ m(b=1, a=5) }}{{ m() }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, a=2) }}", "{% macro m(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }}",
    "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}", "{% macro m(a=1, b) %}{% endmacro %}", "{% macro m() %}{{ caller() }}!{% endmacro %}{% call m() %}x{{ n }}{% endcall %}",
    "{% macro m() %}{{ caller(1, b=2) }}{% endmacro %}{% call(a, b=5) m() %}{{ a }}{{ b }}{% endcall %}", "{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}", "{% macro m() %}x{% endmacro %}{% call m() %}{% endcall %}",
    "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}{% call m() %}{% endcall %}", "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
    "{% macro m() %}{{ x }}{% endmacro %}{% set x = 1 %}{{ m() }}{% set x = 2 %}{{ m() }}", "{% macro m() %}{% set x = 5 %}{{ x }}{% endmacro %}{{ m() }}{{ x is defined }}", "{% macro m() %}  a  {% endmacro %}[{{ m() | trim }}]",
    "{{ m(1) }}{% macro m(a) %}{% endmacro %}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m }}{{ m.name }}", "{% macro m(x) %}{{ x }}{% endmacro %}{% for i in list %}{{ m(i) }}{% endfor %}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(*[1]) }}{{ m(**{'a': 2}) }}",
    "{% call 5 %}{% endcall %}", "{% macro m(a) %}{{ a.b }}{% endmacro %}{{ m() }}", "{% macro caller() %}{% endmacro %}", "{% macro m(caller) %}{{ caller }}{% endmacro %}{{ m(caller=1) }}",
    # Other blocks
    "{% filter upper %}abc{{ n }}{% endfilter %}", "{% filter replace('a', 'b') | upper %}aca{% endfilter %}", "{% raw %}{{ x }}{% if %}{% endraw %}", "a{%- raw -%} b {%- endraw -%} c", "{% raw %}x", "{# comment #}a{#- b -#} c {# d", "{# a #}\nb\n  {# c #}\nd",
    "{% print 1, 2 %}", "{% do 1 %}", "{% include 'x' %}", "{% import 'x' as y %}", "{% extends 'x' %}", "{% nope %}", "{% endif %}", "{% if true %}", "{% if true %}{% endfor %}", "{% for %}{% endfor %}", "{%", "{{", "{% %}", "{{ }}", "{{ 1 }", "{{ 1 %}", "{% if 1 }}{% endif %}", "}} %} #}", "{ {", "{", "{% if true: %}a{% endif %}",
    "{% if x|nope %}{% endif %}", "{% if false %}{{ x|nope }}{% endif %}ok", "{% if true %}{{ x|nope }}{% endif %}", "{{ 1 if true else x|nope }}", "{{ x is nope }}", "{% if false %}{{ x is nope }}{% endif %}ok", "{% if false %}{% for a in [] %}{{ a|nope }}{% endfor %}{% endif %}ok",
    # White space
    "a\n  {% if true %}\n  b\n  {% endif %}\nc\n", "a\n  {%- if true -%}\n  b\n  {%- endif -%}\nc\n\n", "a\n  {%+ if true +%}\n  b\n  {%+ endif +%}\nc", "  {% if true %}x{% endif %}  \n", "x {% if true %} y {% endif %} z", "\r\n{{ 1 }}\r\n\r{{ 2 }}\r", "a\n\n", "a\n", "\n", "", "{{ 1 }}\n{{ 2 }}\n", "{{- 1 -}}  \n {{+ 2 }}", "  {{ 1 }}", "a\n\t {# c #} \nb", "{% set a = 1 %}\n{% set b = 2 %}\n{{ a }}{{ b }}", "{% if true -%}\n a\n{%- endif %}\n b", "a {%- if true %} b {% endif -%} c", "{{ 'a' }}\n\n{%- if true %}\n\nb{% endif %}", "\u00a0{% if true %}a{% endif %}", "a\n \u00a0{% if true %}b{% endif %}", "{%- for x in list %}\n  {{- x }}\n{%- endfor %}\n", "{% for x in list %}\n- {{ x }}\n{% endfor %}\nend", "{{'a'}}{%if true%}b{%endif%}", "{{-1}}", "{{ -1 }}", "{{ {'a': {'b': 1}} }}", "{{ {'a': {'b': 1}}}}", "{{'}}'}}{{ '%}' }}", "{% set x = '{{' %}{{ x }}", "{#- a -#}\n\n b", "line\n{%- raw %}\n x\n{% endraw %}\n y", "  {% raw %} x {% endraw %}\n",
    # Generation
    "a{% generation %}b{{ n }}é{% endgeneration %}c{% generation %}{% endgeneration %}d", "{% for x in list %}{% generation %}{{ x }}{{ loop.index }}{% set y = x %}{% endgeneration %}{{ y is defined }} {% endfor %}", "{% generation %}a", "{%- generation -%}\n a {%- endgeneration %} b", "{% for x in list %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
]

CHATML = "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}{%- if m.content is string %}{{- m.content | trim }}{%- else %}{%- for part in m.content %}{%- if part.type == 'text' %}{{ part['text'] }}{%- elif 'image' in part or part.type == 'image' %}<image>{%- endif %}{%- endfor %}{%- endif %}{{- '<|im_end|>\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
STYLES = [
    CHATML,
    # Tools as Qwen writes them
    """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools>\\n{\\"name\\": <name>}<|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or (not loop.last and reasoning)) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}
                    {{- '\\n' }}
                {%- endif %}
                {%- if tool_call.function %}
                    {%- set tool_call = tool_call.function %}
                {%- endif %}
                {{- '<tool_call>\\n{"name": "' ~ tool_call.name ~ '", "arguments": ' }}
                {%- if tool_call.arguments is string %}
                    {{- tool_call.arguments }}
                {%- else %}
                    {{- tool_call.arguments | tojson }}
                {%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}""",
    # Headers as Llama 3.1 has them
    """{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not tools_in_user_message is defined %}{%- set tools_in_user_message = true %}{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}{{- "<|eot_id|>" }}
{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content']|trim %}
        {%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception("Cannot put tools in the first user message when there's no first user message!") }}
    {%- endif %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\n' -}}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
    {{- first_user_message + "<|eot_id|>"}}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}""",
    # Alternation and instructions as Mistral checks them
    """{%- if messages[0]["role"] == "system" %}{%- set system_message = messages[0]["content"] %}{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, conversation roles must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}{%- set tool = tool.function %}{{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}{{- '"' + key + '": "' + val + '"' }}{%- else %}{{- '"' + key + '": ' + val|tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}{%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {{- "[INST] " + (message["content"] if message["content"] is string else message["content"]|map(attribute='text')|select('defined')|join) + "[/INST]" }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {{- ', "id": "' + "abcdefghi" + '"}' }}
            {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" + eos_token }}{%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- elif message["role"] == "tool" %}
        {{- '[TOOL_RESULTS] {"content": ' + message.content|string + ", " }}{{- "}[/TOOL_RESULTS]" }}
    {%- endif %}
{%- endfor %}""",
    # Turns as Gemma has them
    """{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}{%- set first_user_prefix = messages[0]['content'] + '

' -%}{%- set loop_messages = messages[1:] -%}{%- else -%}{%- set first_user_prefix = "" -%}{%- set loop_messages = messages -%}{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'assistant') -%}{%- set role = "model" -%}{%- else -%}{%- set role = message['role'] -%}{%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}{%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{'<start_of_turn>model
'}}{%- endif -%}""",
    # Phi, DeepSeek, SmolLM3 and Command R in short
    "{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}{% else %}{{ '<|' + message['role'] + '|>' ~ message['content'] ~ '<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}",
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='') %}{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<|User|>' ~ message['content']}}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is not none %}{%- if ns.is_tool %}{{'<|outputs_end|>' + message['content'] + '<|end|>'}}{%- set ns.is_tool = false -%}{%- else %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'<|Assistant|>' + content + '<|end|>'}}{%- endif %}{%- endif %}{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}{%- if ns.is_output_first %}{{'<|outputs_begin|>' + message['content']}}{%- set ns.is_output_first = false %}{%- else %}{{'\\n' + message['content']}}{%- endif %}{%- endif %}{%- endfor -%}{% if add_generation_prompt and not ns.is_tool %}{{'<|Assistant|><think>\\n'}}{% endif %}",
    "{%- set reasoning_mode = '/no_think' if '/no_think' in (messages[0].content if messages[0].role == 'system' else '') else '/think' -%}{{- '<|im_start|>system\\n## Metadata\\nToday Date: ' ~ strftime_now('%d %B %Y') ~ '\\nReasoning Mode: ' ~ reasoning_mode ~ '\\n\\n' -}}{%- if tools -%}{%- set ns = namespace(xml_tool_string='<tools>\\n') -%}{%- for tool in tools[:] -%}{%- set ns.xml_tool_string = ns.xml_tool_string ~ (tool | string) ~ '\\n' -%}{%- endfor -%}{{- ns.xml_tool_string ~ '</tools>' -}}{%- endif -%}{{- '<|im_end|>\\n' -}}{%- for message in messages -%}{%- set content = message.content if message.content is string else '' -%}{%- if message.role == 'assistant' -%}{% generation %}{{ '<|im_start|>assistant\\n' ~ content.lstrip('\\n') ~ '<|im_end|>\\n' }}{% endgeneration %}{%- else -%}{{ '<|im_start|>' ~ message.role ~ '\\n' ~ content ~ '<|im_end|>\\n' }}{%- endif -%}{%- endfor -%}",
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% if system_message != false %}{{ '<|SYSTEM|>' + system_message + '<|END|>' }}{% endif %}{%- macro json_to_python_type(spec) %}{%- set basic = {'string': 'str', 'number': 'float', 'integer': 'int', 'boolean': 'bool'} %}{%- if basic[spec.type] is defined %}{{- basic[spec.type] }}{%- elif spec.type == 'array' %}{{- 'List[' + json_to_python_type(spec['items']) + ']' }}{%- elif spec.type is iterable and spec.type is not string %}{{- 'Union[' + spec.type | join(',') + ']' }}{%- else %}{{- 'Any' }}{%- endif %}{%- endmacro %}{% for tool in tools or [] %}def {{ tool.function.name }}({% for name, spec in tool.function.parameters.properties.items() %}{{ name }}: {{ json_to_python_type(spec) }}{% if name not in tool.function.parameters.required %} = None{% endif %}{{ ', ' if not loop.last }}{% endfor %}) -> List[Dict]:\\n    \\\"\\\"\\\"{{ tool.function.description | indent(4) }}\\\"\\\"\\\"{% endfor %}{% for message in loop_messages %}{{ '<|' + message.role.upper() + '|>' ~ message.content ~ '<|END|>' }}{% endfor %}",
]


class FixedDate(datetime.datetime):
    @classmethod
    def now(cls):
        return cls(2024, 7, 26)


def case(template, context):
    ranges = []
    try:
        compiled = utils._compile_jinja_template(template)
        with mock.patch.object(utils, "datetime", FixedDate):
            blocks = []
            with compiled.environment.activate_tracker(blocks, ranges):
                for block in compiled.generate(**json.loads(json.dumps(CONTEXTS[context]))):
                    blocks.append(block)
        text = "".join(blocks)
    except Exception:
        return [template, context, None]
    size = lambda end: len(text[:end].encode())
    result = [template, context, text]
    return result + [[[size(start), size(end)] for start, end in ranges]] if ranges else result


def main():
    cases = []
    for template in ["{{ " + text + " }}" for text in EXPRESSIONS.strip().split("\n")] + STATEMENTS:
        if len(template) < 400 and all(template != known[0] for known in cases):
            made = case(template, "data")
            # Addresses differ from run to run.
            if " at 0x" not in str(made[2]):
                cases.append(made)
    for template in STYLES:
        cases += [case(template, "chat"), case(template, "tools")]
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    contexts = json.dumps(CONTEXTS, ensure_ascii=False)
    (HERE / "templates.json").write_text(f'{{"contexts": {contexts},\n"cases": [\n{lines}\n]}}\n')
    print(len(cases), "cases,", sum(case[2] is None for case in cases), "errors")


main()
