"""Chat templates whose rendering the Go side must reproduce: three families in use, and the corners of Jinja that they touch."""
from chat_templates import CHAT_TEMPLATES

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# ChatML that opens with a system message of its own where the conversation has none.
CHATML_SYSTEM = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Line by line, so that trim_blocks and lstrip_blocks decide every newline.
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""

LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

# Indented, with a date, set blocks, slices, and comments.
LLAMA32 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "1 Jan 2000" %}
    {%- endif %}
{%- endif %}

{#- The system message, if there is one. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}

{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif message.tool_calls is not none %}
        {{- raise_exception("no tools here") }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)

# Namespace, macro, reverse slice, tests, default arguments, dict access, generation block.
QWEN = """{%- macro head(role) -%}
<|im_start|>{{ role }}
{% endmacro -%}
{%- if tools %}
    {{- 'tools: ' + tools | tojson }}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1, seen=false) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if not ns.seen and message.role == "user" and message.content is string %}
        {%- set ns.seen = true %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- head(message.role) + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- generation %}
        {{- head(message.role) + content.lstrip('\\n') + '<|im_end|>\\n' }}
        {%- endgeneration %}
    {%- elif message.get('role') in ['system', 'developer'] %}
        {{- '<|im_start|>' ~ message.get('role', 'none') ~ '\\n' ~ content.split('|')[0].rstrip() ~ '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{{- 'last ' ~ ns.last }}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

# Bare [INST] marks, alternation checked, system message put before the last user turn.
MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.tool_calls is defined) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("turns must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- endif %}
{%- endfor %}
"""

# The assistant by another name, the system message as the first turn's beginning.
GEMMA = (
    "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}{%- set first = messages[0]['content'] + '\n\n' -%}"
    "{%- set turns = messages[1:] -%}{%- else -%}{%- set first = '' -%}{%- set turns = messages -%}{%- endif -%}"
    "{%- for message in turns -%}{%- if (message['role'] == 'assistant') -%}{%- set role = 'model' -%}{%- else -%}"
    "{%- set role = message['role'] -%}{%- endif -%}"
    "{{ '<start_of_turn>' + role + '\n' + first }}{%- if message['content'] is string -%}"
    "{{ message['content'] | trim }}{%- elif message['content'] is iterable -%}{%- for item in message['content'] -%}"
    "{{ item['text'] | trim }}{%- endfor -%}{%- else -%}{{ raise_exception('Invalid content type') }}{%- endif -%}"
    "{{ '<end_of_turn>\n' }}{%- endfor -%}{%- if add_generation_prompt -%}{{'<start_of_turn>model\n'}}{%- endif -%}"
)

CORNERS = {
    "blanks_between_blocks": "{% if true %} {% if true %}a{% endif %} {% endif %} b",
    "blanks_after_output": "{{ 'a' }} {% if true %}b{% endif %}\t{# note #} c",
    "indented_blocks": "x\n  {% if true %}\n    y\n  {% endif %}\nz\n",
    "indented_output": "x\n  {{ 'y' }}\nz\n\n",
    "plus_and_minus": "x\n  {%+ if true %}\n y {%- endif +%}\nz {{- 'w' -}}  \n v",
    "comment_lines": "a\n{# one #}\nb {# two #}\n  {#- three -#}  \nc",
    "crlf": "a\r\n{% if true %}\r\nb{% endif %}\r\nc",
    "quotes_in_tags": "{{ '%}' }}{{ \"}}\" }}{{ 'it\\'s' }}{{ '{% if %}' }}{{ '\\t|\\\\n' }}",
    "missing": "[{{ pad_token }}{{ unheard_of }}{{ messages[0].nothing }}]",
    "null": "{{ tools is none }}|{{ tools is not none }}|{{ true }}|{{ false and 1 }}|{{ not tools }}|{{ 'a' if documents else 'b' }}",
    "numbers": "{{ 7 // 2 }} {{ 7 / 2 }} {{ 7 % 4 }} {{ 2 * 3 }} {{ 1.5 + 1 }} {{ -3 }} {{ 3 | string + 'x' }} {{ '4' | int + 1 }}",
    "tojson": "{{ messages | tojson }}\n{{ messages[0] | tojson(indent=2) }}\n{{ {'b': [1, 2.5, none, true], 'a': '<é&\\'>'} | tojson }}",
    "conditional": "{{ 'a' if add_generation_prompt else 'b' }}{{ 'c' if false }}{{ messages[-1]['role'] }}{{ messages[0].content[:3] }}",
    "loop": "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ ', ' if not loop.last }}{% endfor %}"
            "{% for m in messages if m.role == 'user' %}{{ loop.index0 }}{% else %}none{% endfor %}",
    "loop_control": "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "scope": "{% set x = 1 %}{% for m in messages %}{% set x = 2 %}{% endfor %}{{ x }}{% if true %}{% set x = 3 %}{% endif %}{{ x }}",
    "strings": "{{ 'a,b'.split(',') | join('+') }}{{ 'Abc'.upper() }}{{ 'xax'.replace('x', '') }}{{ 'abc'.startswith('ab') }}"
               "{{ 'a' in 'abc' }}{{ 'q' not in 'abc' }}{{ 'abc' | length }}{{ ' a '.strip() }}{{ 'abc'[-1] }}{{ 'title case' | title }}",
    "tests": "{{ messages[0] is mapping }}{{ messages is iterable }}{{ messages is sequence }}{{ 'a' is string }}{{ messages is string }}"
             "{{ 'role' in messages[0] }}{{ 'tool_calls' in messages[0] }}{{ messages[0].name is defined }}{{ 1 is number }}"
             "{{ messages[0].tool_calls is defined and messages[0].tool_calls }}{{ 2 is even }}{{ bos_token is none }}{{ 'a' is in ['a'] }}",
    "first_of_one": "{% set one = messages[-1:] %}{{ one[-1].role }}{{ one[0]['role'] }}{{ 'x'.split(',')[-1] }}{{ (messages[0],)[0].role }}",
    "strip": "[{{ ' \\n a \\t'.strip() }}][{{ ' a '.lstrip() }}][{{ ' a '.rstrip() }}][{{ 'xxaxx'.strip('x') }}][{{ 'xya'.lstrip('xy') }}]"
             "[{{ 'axy'.rstrip('y') }}][{{ 'a\\n\\n'.rstrip('\\n') }}][{{ '\u3000a\u00a0'.strip() }}][{{ ' a ' | trim }}]",
    "methods": "{{ 'aXa'.lower() }}{{ 'aB'.upper() }}{{ 'a b'.title() }}{{ 'aBC'.capitalize() }}{{ 'abab'.count('b') }}{{ 'abc'.find('c') }}"
               "{{ 'abc'.endswith('bc') }}{{ 'abc'.startswith(('x', 'a')) }}{{ ','.join(['a', 'b']) }}{{ 'a-b'.replace('-', '+') }}"
               "{{ 'aaa'.replace('a', 'b', 2) }}{{ 'a  b c'.split() | length }}{{ 'a,b,c'.split(',', 1)[1] }}{{ 'a,b,c'.rsplit(',', 1)[0] }}"
               "{{ '12'.isdigit() }}{{ 'ab'.isalpha() }}{{ 'a\\nb'.splitlines() | length }}{{ 'abc'.removeprefix('a') }}{{ 'abc'.removesuffix('c') }}",
    "think": "{% for m in messages %}{% set c = m.content %}{% if '</think>' in c %}{% set c = c.split('</think>')[-1].lstrip('\\n') %}"
             "{% endif %}{{ c }}{% endfor %}",
    "select": "{{ messages | map(attribute='role') | join(',') }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"
              "{{ (messages | first).role }}{{ (messages | last).role }}",
    "set_block": "{% set x %}a\n{{ 'b' }}\n{% endset %}[{{ x }}]",
    "raw": "{% raw %}{{ x }} {% if %}{% endraw %} {{ 'a' }}",
    "escape": "{{ messages[0].content | e }}{{ '<&>' }}",
    "inline_if": "{{ 'a' if false else 'b' if add_generation_prompt else 'c' }}{{ ('x' if true else 'y') + 'z' }}"
                 "{% set v = 'on' if add_generation_prompt else 'off' %}{{ v }}{{ [1 if true else 2, 3] | join('-') }}"
                 "{% if ('u' if true else '') == 'u' %}yes{% endif %}{{ ({'k': 'd' if true else 'e'}).k }}{{ 'a' ~ ('b' if false) ~ 'c' }}"
                 "{{ ('left' if messages | length > 1 else 'right') | upper }}{{ messages[0 if true else 1].role }}"
                 "{{ 'long'[:2 if true else 3] }}{{ range(3 if true else 4) | list | length }}{{ 'if' if 'else' in 'x else y' else 'else' }}"
                 "{% for m in (messages if true else []) %}{{ loop.index }}{% endfor %}",
    "nested_if": "{{ (('a' if false else 'b') if add_generation_prompt else ('c' if messages else 'd')) + 'e' }}",
    "keyword_conditional": "{% set ns = namespace(x='a' if add_generation_prompt else 'b') %}{{ ns.x }}{{ '' | default('q' if true else 'r', true) }}",
    "macro_conditional": "{% macro m(x, y='d') %}[{{ x if x is string else 'n' }}{{ y }}]{% endmacro %}{{ m('s' if true else 't') }}{{ m(1, y='z') }}",
    "comparisons": "{{ 1 < 2 }}{{ 'a' == 'a' and 'b' != 'c' }}{{ not 'a' == 'b' }}{{ 2 >= 2 }}{{ 1 == 1.0 }}{{ 'ab' < 'b' }}{{ none == false }}"
                   "{{ '' == none }}{{ true is true }}{{ false is false }}{{ 1 is not none }}{{ 'x' is eq 'x' }}{{ 3 is gt 2 }}{{ 3 in [1, 3] }}",
    "slices": "{{ 'abcdef'[1:4] }}{{ 'abcdef'[-2:] }}{{ 'abcdef'[:-2] }}{{ messages[1:] | length }}{{ messages[:-1] | length }}{{ messages[::-1][0].role }}"
              "{{ (messages | map(attribute='role') | list)[-1] }}{{ [1,2,3][::2] }}{{ 'abc'[::-1] }}",
    "loop_variables": "{% for m in messages %}{{ loop.first }}{{ loop.last }}{{ loop.revindex }}{{ loop.revindex0 }}"
                      "{{ loop.previtem.role if loop.previtem is defined else '-' }}{{ loop.nextitem.role if loop.nextitem is defined else '-' }}{% endfor %}",
    "dictionaries": "{% set d = {'a': 1, 'b': 'x'} %}{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}"
                    "{{ d.a }}{{ d['b'] }}{{ d.get('c', 'none') }}{{ 'a' in d }}{{ d | length }}{{ d.keys() | list }}",
    "filters": "{{ [3,1,2] | sort | join(',') }}{{ [1,2] | sum }}{{ ['a','b'] | reverse | list }}{{ 'a b' | wordcount }}{{ [1,1,2] | unique | list }}"
               "{{ messages | rejectattr('role', 'equalto', 'user') | list | length }}{{ ['a','b'] | reject('equalto', 'a') | join }}"
               "{{ 'abc' | first }}{{ 'x' | upper }}{{ 3.7 | int }}{{ '3' | float }}{{ -1 | abs }}{{ 'a' | indent(2) }}{{ [1,2,3] | batch(2) | list | length }}"
               "{{ 'Hello' | replace('l', 'L') }}{{ messages | selectattr('name', 'defined') | list | length }}{{ 'x' | capitalize }}{{ [2,1] | max }}{{ [2,1] | min }}",
    "unicode": "{{ '数' + 'é' | upper }}{{ '数える' | length }}{{ '数える'[1:] }}{{ '\u00e9' }}{{ 'é' in 'né' }}",
    "call_block": "{% macro wrap() %}<{{ caller() }}>{% endmacro %}{% call wrap() %}in{% endcall %}",
    "filter_block": "{% filter upper %}abc{% endfilter %}{% with x = 'w' %}{{ x }}{% endwith %}",
    "string_escapes": "{{ 'a\\nb' }}{{ \"it's\" }}{{ 'say \"x\"' }}{{ 'tab\tend' }}{{ 'back\\\\slash' }}",
    "set_attribute": "{% set n = namespace(v=[]) %}{% set n.v = n.v + ['q'] %}{{ n.v | join }}{{ n.v }}",
    "concat": "{{ 'a' ~ 1 ~ true }}{{ 'a' * 3 }}{{ [1, 2] + [3] }}{{ {'k': 'v'} }}",
    "defined_or": "{{ x | default('d') }}{{ '' | default('e', true) }}{{ (undefined_name or 'f') }}",
    "replace_filter": "{{ messages[0].content | replace('\\n', ' ') | trim | lower }}",
    "strftime": "{{ strftime_now('%Y-%m-%d %d %b %B %y %H:%M:%S %A %a %j %p %I %%') }}",
    "printed": "{{ none }}|{{ [none, true, 1.5, 'a', \"it's\"] }}|{{ {'a': none, 'b': (1,)} }}|{{ () }}|{{ 'a' ~ none ~ 1.0 }}|{{ none | string }}",
    "percent": "{{ '%s: %s' % (messages[0].role, 'x') }}|{{ '%5.2f|%-5s|%05d|%x' % (3.14159, 'ab', 42, 255) }}|{{ '%(a)s %%' % {'a': 1} }}|{{ 'é%s' % none }}",
    "format": "{{ '{} {}'.format('a', 1) }}|{{ '{1}{0}'.format('a', 'b') }}|{{ '{a:>5}|{b:.2f}|{c:,}'.format(a='x', b=3.14159, c=1234567) }}|{{ '%s-%s' | format('a', 'b') }}",
    "star_arguments": "{% macro m(a, b='d') %}{{ a }}{{ b }}{% endmacro %}{{ m(*['x', 'y']) }}{{ m(**{'a': 1}) }}{{ m(*['x'], **{'b': 2}) }}",
    "sequences": "{{ 'a' is sequence }}{{ {} is sequence }}{{ messages[1:] is sequence }}{{ 1 is sequence }}{{ tools is iterable }}{{ 'a' is iterable }}{{ (1,) is sequence }}",
    "pairs": "{% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}={{ v }};{% endfor %}{% for k, v in {'z': 1, 'y': 2} | items %}{{ k }}{{ v }}{% endfor %}"
             "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% for a, b in [(1, 2), (3, 4)] %}{{ a + b }}{% endfor %}{{ {'a': 1} | items | list }}",
    "tuples_of_text": "{{ 'abc'.endswith(('x', 'c')) }}{{ 'abc'.startswith(('x', 'y')) }}{{ 'abc'.startswith('b', 1) }}{{ 'abcabc'.find('b', 2) }}{{ 'aaa'.count('a', 1) }}",
    "python_numbers": "{{ -7 // 2 }} {{ 7 // -2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7.5 % 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 4 / 2 }} {{ 10 ** 20 }} {{ 0.1 + 0.2 }} {{ true + 1 }} {{ 1_000 }}",
    "undefined": "{{ x | length }}{{ x | trim }}{{ x ~ 'a' }}{{ x | list }}{{ x == none }}{{ x in [1] }}{{ 1 in x }}{{ x is none }}{% for a in x %}{% else %}e{% endfor %}"
                 "{{ messages[99] is defined }}{{ messages[99] }}{{ messages[0].get('foo') }}{{ messages[0].get('foo', 'd') }}{{ none[1:] }}",
    "side_by_side": "{{ 'a' 'b' }}{{ 1 < 2 < 3 }}{{ 3 > 2 > 2 }}{{ [1, 2,] }}{{ {'a': 1,} }}{{ (1, 'a',) }}{{ '\\x41\\u00e9\\d\\101' }}{{ not 1 in [1] }}{{ -2 ** 2 }}",
    "more_methods": "{{ 'a,b,c'.split(sep=',', maxsplit=1) }}{{ ' a  b c '.split(none, 1) }}{{ ' a b  c '.rsplit(none, 1) }}{{ ''.split() }}{{ ''.split(',') }}"
                    "{{ 'a,b'.partition(',') }}{{ 'a,b'.rpartition(';') }}{{ 'a\\nb\\r\\nc\\n'.splitlines() }}{{ 'a\\nb\\n'.splitlines(keepends=true) }}{{ 'abc'.swapcase() }}"
                    "{{ 'Straße'.casefold() }}{{ '-5'.zfill(3) }}{{ 'a'.ljust(3) }}|{{ 'a'.rjust(3, '-') }}{{ 'ab'.center(5, '*') }}{{ 'Ab'.istitle() }}{{ \"they're\".title() }}"
                    "{{ 'abc'.index('b') }}{{ [1, 2].index(2) }}{{ [1, 2, 1].count(1) }}{{ '-'.join('abc') }}{{ {'a': 1}.copy() }}",
    "more_filters": "{{ 'x' | int }}{{ '3.7' | int }}{{ 'x' | int(5) }}{{ '0x1f' | int(base=16) }}{{ 'x' | float }}{{ 2.5 | round }}{{ 2.567 | round(2) }}{{ 'x' | center(6) }}"
                    "{{ [{'a': 2}, {'a': 1}] | sort(attribute='a') }}{{ ['b', 'A'] | sort }}{{ ['a', 'A'] | unique | list }}{{ [{'a': 1}] | map(attribute='b', default='z') | list }}"
                    "{{ [1, 2, 3] | batch(2, 'x') | list }}{{ [1, 2, 3, 4, 5] | slice(2) | list }}{{ [0, 1, ''] | select | list }}{{ [[1], [2]] | sum(start=[]) }}"
                    "{{ messages | groupby('role') | map('first') | list }}{{ '<a>b</a>' | striptags }}{{ 'a\\n\\nb' | indent(2, true) }}{{ 'xax' | trim('x') }}",
    "tojson_options": "{{ {'b': [1, 2], 'a': {}, 'c': []} | tojson(sort_keys=true, indent=2) }}{{ 'é😀\\u2028' | tojson }}{{ 'é😀' | tojson(ensure_ascii=true) }}"
                      "{{ {'a': [1, 2]} | tojson(separators=(',', ':')) }}{{ (1, none, 1.0) | tojson }}{{ {1: 2, none: 3, true: 4} | tojson }}",
    "strftime_plain": "{{ strftime_now('%-d %B %Y %-m %-H %-I %-j %e|%k|%l|%c|%x|%X|%U|%W|%w|%u|%V|%G') }}",
    "mark_scope": "{% set q = 0 %}{%- generation -%} a{% set q = 1 %}{{ q }} {%- endgeneration -%} {{ q }}{# {% generation %} #}{% raw %}{% generation %}{% endraw %}",
    "macro_scope": "{% set x = 1 %}{% macro m() %}{{ x }}{% endmacro %}{% set x = 2 %}{{ m() }}{% macro r(n) %}{{ n }}{% if n > 0 %}{{ r(n - 1) }}{% endif %}{% endmacro %}{{ r(3) }}"
                   "{% macro c() %}{{ caller(1) }}{% endmacro %}{% call(x) c() %}<{{ x }}>{% endcall %}{% filter upper %}{{ m() }}a{% endfilter %}",
    "nested_loops": "{% for a in [1, [2, [3]]] recursive %}{{ loop(a) if a is iterable else a }}{% endfor %}{% for a in 'ab' %}{{ loop.cycle('x', 'y') }}{{ loop.changed(a) }}{% endfor %}"
                    "{% for i in range(2) %}{% for j in range(5, 0, -2) if j < 5 %}{{ i }}{{ j }}{{ loop.length }}{% if j == 3 %}{% break %}{% endif %}{% endfor %}{% endfor %}",
    "kept": "{% set ns = namespace(l=[], n=0, d={}) %}{% for m in messages %}{% set ns.l = ns.l + [m.role] %}{% set ns.n = ns.n + loop.index %}{% set ns.d = dict(ns.d, **{m.role: m.content}) %}"
            "{% endfor %}{{ ns.l }}{{ ns.n }}{{ ns.d.keys() | list }}{{ ns.l[-1] }}{{ ns.l[::-1] }}{{ ns.l is sequence }}{% set ns.l = ns.l | map('upper') %}{{ ns.l | list }}",
}

TEMPLATES = {
    "chatml": CHATML, "chatml_system": CHATML_SYSTEM, "zephyr": ZEPHYR, "llama3": LLAMA3, "llama32": LLAMA32, "llama2": LLAMA2,
    "mistral": MISTRAL, "gemma": GEMMA, "qwen": QWEN, **CHAT_TEMPLATES, **CORNERS,
}
